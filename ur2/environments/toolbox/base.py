"""Checks and records that all tools share."""

import functools
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import jsonschema
import referencing
from pydantic import JsonValue

from ur2.errors import InputError
from ur2.prompts.tool_calls import ToolSchema
from ur2.types import ToolOutcome, ToolUse

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
MAX_REASON_CHARS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A tool's reply to one call."""

    text: str
    outcome: ToolOutcome = "found"
    ids: tuple[str, ...] = ()


def check_schema(schema: ToolSchema, *, where: str) -> None:
    """Raises an InputError for a name or a schema that no policy can be told of."""
    if not _NAME.fullmatch(schema.name):
        raise InputError(
            f"{where}: '{schema.name[:80]}' is no name of a tool: 1 to 64 letters, digits, _ and -"
        )
    kind = dict(schema.parameters).get("type")
    if kind != "object":
        raise InputError(f"{where}: the arguments of '{schema.name}' are '{kind}', not an object")
    try:
        jsonschema.Draft202012Validator.check_schema(dict(schema.parameters))
        misfit(schema, {})
    except (jsonschema.SchemaError, referencing.exceptions.Unresolvable) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{where}: the parameters of '{schema.name}' are no JSON schema: {reason}"
        ) from error


def misfit(schema: ToolSchema, arguments: Mapping[str, JsonValue]) -> str | None:
    """Why arguments do not fit a schema; None where they do."""
    try:
        errors = _validator(schema).iter_errors(dict(arguments))
        found = jsonschema.exceptions.best_match(errors)
    except (RecursionError, re.error) as error:
        return f"the arguments cannot be checked: {type(error).__name__}"
    if found is None:
        return None
    place = "".join(f".{part}" for part in found.absolute_path)
    return f"arguments{place}: {found.message}"[:MAX_REASON_CHARS]


@functools.lru_cache(maxsize=1024)
def _validator(schema: ToolSchema) -> jsonschema.Draft202012Validator:
    # A registry of its own: references of strangers must fetch nothing.
    return jsonschema.Draft202012Validator(dict(schema.parameters), registry=referencing.Registry())


def cut(text: str, max_chars: int) -> str:
    """A text within a limit; one that was cut says so."""
    if len(text) <= max_chars:
        return text
    return f"{text[:max_chars]}\n[cut: {max_chars} of {len(text)} characters]"


async def used(
    name: str, arguments: Mapping[str, JsonValue], call: Callable[[], Awaitable[Said]]
) -> ToolUse:
    """The record of one call, with its times."""
    start_s, started = time.time(), time.perf_counter()
    said = await call()
    return ToolUse(
        tool=name,
        arguments=arguments,
        outcome=said.outcome,
        ids=said.ids,
        facts=said.text,
        start_s=start_s,
        latency_s=time.perf_counter() - started,
    )


def object_schema(
    properties: Mapping[str, JsonValue], required: Sequence[str]
) -> dict[str, JsonValue]:
    """The JSON schema of an object with these properties and no others."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }

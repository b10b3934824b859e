"""Calls of tools as models write them: their functions' schemas, and the calls of one turn."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from pydantic import JsonValue

CallFormat = Literal["hermes", "llama"]

CALL_TAGS = ("<tool_call>", "</tool_call>")
_GAP = re.compile(r"[\s;]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSchema:
    """A tool as the policy is told of it."""

    name: str
    description: str
    parameters: Mapping[str, JsonValue] = field(hash=False)
    """A JSON schema of its arguments, which are an object."""

    def as_function(self) -> dict[str, Any]:
        """The entry of a chat template's `tools`, as OpenAI has them."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": dict(self.parameters),
        }
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that can be tried."""

    name: str
    arguments: Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class BadCall:
    """A call that nobody can read."""

    reason: str


def acted(turn: str) -> str:
    """The part of a turn that acts: nothing within thoughts does, closed or not."""
    return turn.rpartition("</think>")[2].partition("<think>")[0]


def parse_calls(turn: str, form: CallFormat) -> tuple[ToolCall | BadCall, ...]:
    """All calls of a turn, in order; thoughts are skipped. Raises nothing, whatever was written."""
    return tuple(_READERS[form](acted(turn)))


def _hermes(text: str) -> Iterator[ToolCall | BadCall]:
    """Reads `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, as often as it stands."""
    opening, closing = CALL_TAGS
    start = text.find(opening)
    while start >= 0:
        call, end = _read(text, start + len(opening), "arguments")
        closed = text.find(closing, end)
        if closed < 0:
            call = BadCall(f"a call is not closed by {closing}")
        elif isinstance(call, ToolCall) and text[end:closed].strip():
            call = BadCall("more than one JSON object in a call")
        yield call
        start = text.find(opening, end if closed < 0 else closed)


def _llama(text: str) -> Iterator[ToolCall | BadCall]:
    """Reads a turn that is `{"name": ..., "parameters": {...}}`, or several of them."""
    before, tag, after = text.partition("<|python_tag|>")
    body = after if tag else before
    body = re.sub(r"<\|(eot_id|eom_id|end_of_text)\|>\s*$", "", body).strip()
    if not tag and not re.match(r'\{\s*"(name|type|parameters)"', body):
        return
    position = 0
    while position < len(body):
        call, end = _read(body, position, "parameters")
        yield call
        if isinstance(call, BadCall):
            return
        gap = _GAP.match(body, end)
        position = gap.end() if gap else end


def _read(text: str, start: int, arguments_key: str) -> tuple[ToolCall | BadCall, int]:
    """The call whose JSON stands at `start`, and where it ends."""
    while start < len(text) and text[start].isspace():
        start += 1
    try:
        found, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        return BadCall(f"no valid JSON: {error}"), start
    return _call(found, arguments_key), end


def _call(found: object, arguments_key: str) -> ToolCall | BadCall:
    if not isinstance(found, dict):
        return BadCall('no JSON object with "name"')
    name, arguments = found.get("name"), found.get(arguments_key, {})
    if not isinstance(name, str) or not name:
        return BadCall('no "name"')
    if not isinstance(arguments, dict):
        return BadCall(f'"{arguments_key}" is no JSON object')
    try:
        json.dumps([name, arguments], ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:  # 1e999, half of a surrogate pair
        return BadCall(f"a value that JSON does not have: {error}")
    return ToolCall(name, arguments)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)

_READERS: Mapping[CallFormat, Callable[[str], Iterator[ToolCall | BadCall]]] = {
    "hermes": _hermes,
    "llama": _llama,
}

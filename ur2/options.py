"""The base of every stage's typed options, and the `key=value` command line made from them."""

import difflib
import json
import re
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from ur2.errors import InputError

OptionsT = TypeVar("OptionsT", bound="Options")


class Options(BaseModel):
    """Frozen, strict options; a docstring under a field is its help text."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @classmethod
    def load(cls, tree: Mapping[str, Any], *, where: str) -> Self:
        """Types a plain tree.

        Raises:
            InputError: naming every wrong or unknown key of `where`, with the nearest known key.
        """
        try:
            return cls.model_validate_json(json.dumps(tree), strict=True)
        except ValidationError as error:
            problems = [_explain(cls, problem) for problem in error.errors()]
        raise InputError(f"{where}: " + "; ".join(problems))


def parse_command_line(
    cls: type[OptionsT], *, prog: str, about: str, argv: Sequence[str] | None = None
) -> OptionsT:
    """Reads `key=value` arguments (YAML values, dotted keys) into `cls`; `--help` lists them.

    Raises:
        InputError: an argument is not `key=value`, or does not fit `cls`.
        SystemExit: 0, after printing the help that was asked for.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(_help(cls, prog, about))
        raise SystemExit(0)
    tree: dict[str, Any] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise InputError(f"{prog}: '{argument}' is not key=value; --help lists the keys")
        *parents, leaf = key.split(".")
        node: Any = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise InputError(f"{prog}: '{argument}' is below '{parent}', which has a value")
        node[leaf] = read_value(value)
    return cls.load(tree, where=prog)


class _Values(yaml.SafeLoader):
    """YAML without dates, and with 1e-5 as a number, as Hydra reads values."""


_Values.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$")
_Values.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))


def read_value(text: str) -> Any:
    """The value that a text of a command line stands for, as YAML has it.

    But a mapping wants braces: `query: ` is a text, and texts keep their spaces.
    """
    try:
        value = yaml.load(text, Loader=_Values)
        json.dumps(value)
    except (yaml.YAMLError, TypeError, ValueError, RecursionError):
        return text
    is_plain = not text.startswith(("{", "'", '"'))
    return text if not text or (is_plain and isinstance(value, str | dict)) else value


def nearest(key: str, known: Sequence[str]) -> str:
    """`did you mean 'x'?` for the closest known key, or the known ones where they are few."""
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"known: {', '.join(sorted(known))}" if len(known) <= 20 else "see --help"


def option_keys(cls: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, pydantic field) for every leaf option of `cls`."""
    for name, info in cls.model_fields.items():
        nested = options_class(info.annotation)
        if nested is None:
            yield prefix + (info.alias or name), info
        else:
            yield from option_keys(nested, f"{prefix}{name}.")


def _explain(cls: type[BaseModel], problem: Any) -> str:
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:  # about the options as a whole
        return str(message)
    *parents, name = [str(part) for part in problem["loc"]]
    key = ".".join([*parents, name])
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{key}' ({nearest(name, _known_keys(cls, parents))})"
    if problem["type"] == "missing":
        return f"'{key}' is required"
    # options as a whole are named, not shown
    got = "" if isinstance(problem["input"], Mapping) else f", got {problem['input']!r}"
    return f"'{key}': {message[0].lower()}{message[1:]}{got}"


def _known_keys(cls: type[BaseModel], parents: Sequence[str]) -> list[str]:
    """The keys of the options that `parents` lead to, through dicts and sequences of options."""
    annotation: Any = cls
    for part in parents:
        owner = options_class(annotation)
        if owner is not None:
            annotation = owner.model_fields[part].annotation
        else:
            annotation = next(iter(typing.get_args(annotation)[-1:]), None)
    owner = options_class(annotation)
    if owner is None:
        return []
    return [info.alias or name for name, info in owner.model_fields.items()]


def options_class(annotation: Any) -> type[BaseModel] | None:
    """The options class that `X` or `X | None` is, if it is one; a container of them is not."""
    if typing.get_origin(annotation) in (tuple, list, dict):
        return None
    for candidate in (annotation, *typing.get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _help(cls: type[BaseModel], prog: str, about: str) -> str:
    lines = [f"usage: {prog} [key=value ...]", "", about, "", "keys (default in brackets):"]
    for key, info in option_keys(cls):
        default = (
            "required" if info.is_required() else repr(info.get_default(call_default_factory=True))
        )
        lines.append(f"  {key} [{default}]")
        lines.extend(f"      {line.strip()}" for line in (info.description or "").splitlines())
    return "\n".join(lines) + "\n"

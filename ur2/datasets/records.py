"""Typed records from question files: every row is checked, all problems are reported at once."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from ur2.datasets.adapters import Adapt, load_adapter
from ur2.datasets.fields import Origin
from ur2.datasets.jsonl import MAX_LINE_BYTES, Problems
from ur2.datasets.published import check_nothing_lost, reshaped
from ur2.datasets.rows import SCHEMAS, NativeRow, Row, field_names
from ur2.datasets.sources import QuestionSource, RawRow, parse_source, read_rows
from ur2.demonstrations import Demonstration, RecordedContext
from ur2.errors import InputError
from ur2.types import Question, Task

RecordT = TypeVar("RecordT")

_DEMONSTRATION = TypeAdapter(Demonstration)
_RECORDED = TypeAdapter(RecordedContext)

_ADVICE: Mapping[str, str] = {
    "missing": "is missing; add it",
    "string_type": "must be a text in quotes",
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list",
    "dict_type": "must be an object",
    "string_pattern_mismatch": "is blank; fill it in",
    "too_short": "has too few entries; add what is missing",
    "extra_forbidden": "is no field of this schema; remove it, or put it under meta",
}
"""Messages for pydantic's error types; others speak for themselves."""


def load_questions(path: str, *, task: Task | None = None) -> list[Question]:
    """Reads questions; `ur2.datasets.sources` tells how files and hub sets are named.

    Args:
        path: JSON lines, a JSON array or parquet, or an `hf:` name, in any schema of
            `ur2.datasets.rows` or through an adapter; JSON may be compressed (`.gz`, `.zst`).
        task: what rows are that do not tell; open QA by default.

    Raises:
        InputError: the file is missing, empty, or any row is wrong; the message lists the first
            problems by place and field, and their count.
    """
    source = parse_source(path)
    adapt: Adapt | None = None
    if source.adapter is not None:
        adapt = load_adapter(source.adapter, source.adapter_options, where=path)

    def parse(raw: RawRow) -> Question | None:
        origin = Origin(
            name=path,
            stem=source.stem,
            number=raw.number,
            task=task or source.task,
            is_table=source.on_hub or source.path.endswith(".parquet"),
        )
        row = _parsed(raw.value)
        if adapt is None:
            return _question(row, origin)
        adapted = adapt(row, origin)
        return None if adapted is None else _native(adapted).to_question(origin)

    return _load(source, parse, lambda question: question.id)


def load_demonstrations(path: str) -> list[Demonstration | RecordedContext]:
    """Reads worked examples, or contexts of a teacher; several may share one question.

    Raises:
        InputError: as `load_questions`.
    """

    def parse(raw: RawRow) -> Demonstration | RecordedContext:
        row = _parsed(raw.value)
        adapter: TypeAdapter[Any] = _RECORDED if "message" in row else _DEMONSTRATION
        found: Demonstration | RecordedContext = adapter.validate_json(to_json(row), strict=False)
        return found

    return _load(parse_source(path), parse, None)


def _load(
    source: QuestionSource,
    parse: Callable[[RawRow], RecordT | None],
    key: Callable[[RecordT], str] | None,
) -> list[RecordT]:
    """The records of a source, without those of rows that `parse` leaves out."""
    problems = Problems(source.name)
    records: list[RecordT] = []
    first_place: dict[str, str] = {}
    rows: Iterable[RawRow] = read_rows(source)
    for raw in rows:
        try:
            record = parse(raw)
        except ValidationError as error:
            problems.add(raw.place, "; ".join(_explanations(error)))
            continue
        except ValueError as error:
            problems.add(raw.place, str(error))
            continue
        if record is None:
            continue
        name = key(record) if key else raw.place
        if name in first_place:
            problems.add(raw.place, f"id: '{name}' is already used on {first_place[name]}")
            continue
        first_place[name] = raw.place
        records.append(record)
    problems.raise_if_any()
    if not records:
        raise InputError(f"{source.name}: holds no rows; give a file with one JSON object per line")
    return records


def _native(fields: Mapping[str, Any]) -> NativeRow:
    return NativeRow.model_validate_json(to_json(fields), strict=True)


def _question(row: Mapping[str, Any], origin: Origin) -> Question:
    row = reshaped(row, origin)
    schema = _schema(row)
    known = field_names(schema)
    check_nothing_lost(row, known)
    kept = {
        name: field
        for name, field in row.items()
        if field is not None and (name in known or schema is NativeRow)
    }
    return schema.model_validate_json(to_json(kept), strict=True).to_question(origin)


def _schema(row: Mapping[str, Any]) -> type[Row]:
    for field, schema in SCHEMAS.items():
        if field in row:
            return schema
    has = ", ".join([*list(row)[:6], *(["..."] if len(row) > 6 else [])]) or "none"
    known = ", ".join(SCHEMAS)
    raise ValueError(f"no schema is known by these fields: {has}; rename one to any of {known}")


def _parsed(value: object) -> Mapping[str, Any]:
    if isinstance(value, bytes):
        if len(value) > MAX_LINE_BYTES:
            raise ValueError(
                f"longer than {MAX_LINE_BYTES:,} bytes; is the file one JSON array? Name it .json"
            )
        value = _from_json(value)
    if not isinstance(value, dict):
        raise ValueError(
            f"a JSON object is needed, not {type(value).__name__}; "
            "a file that is one array must end in .json"
        )
    return value


def _from_json(line: bytes) -> object:
    try:
        line.decode("utf-8")
        return from_json(line, allow_inf_nan=False)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"byte {error.start + 1} (0x{line[error.start]:02x}) is not UTF-8; "
            "save the file as UTF-8"
        ) from error
    except ValueError as error:
        raise ValueError(f"not JSON: {str(error).replace(' at line 1', ' at')}") from error


def _explanations(error: ValidationError) -> Iterator[str]:
    """One phrase per field; the alternatives of a field joined by `or`."""
    by_field: dict[str, dict[str, Any]] = {}
    problems = error.errors(include_url=False)
    depth = Counter(problem["loc"][:1] for problem in problems)
    for problem in problems:
        if problem["type"] == "too_short" and depth[problem["loc"][:1]] > 1:
            continue  # An entry is wrong, and pydantic counts only those that are right.
        name, *inner = problem["loc"] or ("",)
        field = ".".join([str(name), *(str(part) for part in inner if isinstance(part, int))])
        message = _ADVICE.get(problem["type"], problem["msg"].removeprefix("Value error, "))
        by_field.setdefault(field, {})[message] = problem["input"]
    for field, messages in by_field.items():
        text = " or ".join(messages)
        yield f"{field}: {text}{_got(messages.popitem()[1])}" if field else text


def _got(value: object) -> str:
    if isinstance(value, dict) or value == "":
        return ""
    shown = repr(value)
    return f", got {shown if len(shown) <= 60 else shown[:57] + '...'}"

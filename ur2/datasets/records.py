"""Typed records from JSON lines: every row is validated, every problem is reported at once.

Two schemas are recognised, row by row, by their fields:

- this project's: the fields of `Question` by name (`id`, `task`, `text`, `answers`, `level`, ...);
- UR²'s: `question`, `answer`, and where present `source`, `level`, `idx`, `options`, `subject`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json

from ur2.datasets.jsonl import Problems, read_lines
from ur2.datasets.rows import NativeRow, Ur2Row
from ur2.errors import InputError
from ur2.types import Demonstration, Question, Task

RecordT = TypeVar("RecordT")

_DEMONSTRATION = TypeAdapter(Demonstration)


def load_questions(path: str, *, task: Task | None = None) -> list[Question]:
    """Reads a question file, plain, `.gz` or `.zst`.

    Args:
        path: JSON lines in either schema.
        task: what UR² rows are that name no source and have no options (open QA by default).

    Raises:
        InputError: the file is missing, empty, or any row is wrong; the message lists the first
            problems by line and field, and their count.
    """

    def parse(line: int, text: bytes) -> Question:
        return _question(path, line, text, task)

    return _load(path, parse, lambda question: question.id)


def load_demonstrations(path: str) -> list[Demonstration]:
    """Reads worked examples, plain, `.gz` or `.zst`; several may share one question.

    Raises:
        InputError: as `load_questions`.
    """
    return _load(path, lambda _, text: _DEMONSTRATION.validate_json(text, strict=False), None)


def _load(
    path: str, parse: Callable[[int, bytes], RecordT], key: Callable[[RecordT], str] | None
) -> list[RecordT]:
    problems = Problems(path)
    records: list[RecordT] = []
    first_line: dict[str, int] = {}
    for line, text in read_lines(path):
        try:
            record = parse(line, text)
        except ValidationError as error:
            problems.add(line, "; ".join(_explanations(error)))
            continue
        except ValueError as error:
            problems.add(line, str(error))
            continue
        name = key(record) if key else str(line)
        if name in first_line:
            problems.add(line, f"id '{name}' is already used on line {first_line[name]}")
            continue
        first_line[name] = line
        records.append(record)
    problems.raise_if_any()
    if not records:
        raise InputError(f"{path}: holds no rows; give a file with one JSON object per line")
    return records


def _question(path: str, line: int, text: bytes, task: Task | None) -> Question:
    row = from_json(text)
    if not isinstance(row, dict):
        raise ValueError(f"a JSON object is needed, not {type(row).__name__}")
    schema: type[BaseModel] = Ur2Row if "question" in row else NativeRow
    typed = schema.model_validate_json(text, strict=True)
    if isinstance(typed, Ur2Row):
        return typed.to_question(file=Path(path), line=line, default_task=task or "qa")
    assert isinstance(typed, NativeRow)
    return typed.to_question(source=path)


def _explanations(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        field = ".".join(str(part) for part in problem["loc"])
        message: Any = problem["msg"]
        yield f"{field}: {message}" if field else message

"""Passages on disk: read from JSONL row by row, kept as a memory-mapped Arrow file."""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from ur2.errors import InputError
from ur2.types import Passage

ROWS_PER_CHUNK = 4096
_HASH_KEY = b"corpus_sha256"


class _Row(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    id: Annotated[str, StringConstraints(min_length=1)]
    text: Annotated[str, StringConstraints(pattern=r"\S")]
    title: Annotated[str, StringConstraints(pattern=r"^[^\r\n]*$")] = ""


def corpus_sha256(path: Path) -> str:
    """The hash of a corpus file's bytes.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"corpus {path} cannot be read: {error.strerror}") from error


def read_passages(path: Path) -> Iterator[Passage]:
    """Reads a JSONL corpus: per line an object with `id`, `text` and optionally `title`.

    Raises:
        InputError: naming file and line, where a row is malformed or repeats an id; or the file
            holds no passage.
    """
    line_of_id: dict[str, int] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.isspace():
                continue
            row = _read_row(line, f"{path}:{number}")
            if row.id in line_of_id:
                raise InputError(
                    f"{path}:{number}: id '{row.id}' is already on line {line_of_id[row.id]}; "
                    "ids must be unique"
                )
            line_of_id[row.id] = number
            yield Passage(id=row.id, title=row.title, text=row.text)
    if not line_of_id:
        raise InputError(f"{path} holds no passages")


def embedded_text(title: str, text: str) -> str:
    """The words that stand for a passage in an index."""
    return f"{title}\n{text}" if title else text


class Corpus:
    """The passages of an index, read from a memory map: their text needs no memory of its own."""

    def __init__(self, path: Path) -> None:
        """Opens a file that `write_corpus` made.

        Raises:
            InputError: it is missing or no such file.
        """
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            self.sha256: str = table.schema.metadata[_HASH_KEY].decode()
            self._columns: tuple[Any, ...] = tuple(map(table.column, ("id", "title", "text")))
        except (OSError, pa.ArrowInvalid, KeyError, TypeError) as error:
            raise InputError(f"{path} is no corpus of an index; build the index again") from error

    def __len__(self) -> int:
        return len(self._columns[0])

    def passage(self, row: int, score: float = 0.0) -> Passage:
        """The passage at `row`, with the score of the search that found it."""
        id_, title, text = (column[row].as_py() for column in self._columns)
        return Passage(id=id_, title=title, text=text, score=score)

    def texts(self, start: int, stop: int) -> list[str]:
        """What stands for the passages of rows [start, stop) in an index."""
        _, titles, texts = (
            column.slice(start, stop - start).to_pylist() for column in self._columns
        )
        return [embedded_text(title, text) for title, text in zip(titles, texts, strict=True)]


def write_corpus(passages: Iterable[Passage], path: Path, *, sha256: str) -> int:
    """Writes passages, chunk by chunk, to an Arrow file that carries the hash of their source.

    Returns:
        How many passages were written.
    """
    schema = pa.schema(
        [("id", pa.string()), ("title", pa.string()), ("text", pa.string())],
        metadata={_HASH_KEY: sha256.encode()},
    )
    num_passages = 0
    rows = iter(passages)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        while chunk := list(islice(rows, ROWS_PER_CHUNK)):
            columns = ([p.id for p in chunk], [p.title for p in chunk], [p.text for p in chunk])
            writer.write_batch(pa.record_batch(list(map(pa.array, columns)), schema=schema))
            num_passages += len(chunk)
    return num_passages


def _read_row(line: bytes, where: str) -> _Row:
    try:
        return _Row.model_validate_json(line)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
    reason = {
        "text": "must be a string with words in it",
        "title": "must be a string of one line",
        "id": "must be a string that is not empty",
    }.get(key, problem["msg"])
    raise InputError(
        f"{where}: {f'{key} ' if key else ''}{reason}; "
        'a row is {"id": "...", "title": "...", "text": "..."}'
    )

"""Files to passages: JSON lines, CSV, TSV, parquet and plain text, row by row."""

import csv
import io
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa
from pyarrow import parquet
from pydantic_core import from_json

from ur2.errors import InputError
from ur2.retrieval.corpus.options import ReadOptions
from ur2.retrieval.corpus.passages import cut
from ur2.retrieval.corpus.rows import (
    READERS,
    Context,
    Draft,
    Row,
    checked,
    file_stem,
    known_fields,
    shape_of,
)
from ur2.retrieval.corpus.sources import Member, PassageFile, members, reading

MAX_LINE_BYTES = 64 << 20
"""Longest line that is taken for a row; KILT's longest pages have a few million bytes."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
ROWS_PER_READ = 4096
_QUOTED = re.compile(r'"[^"]*(?:""[^"]*)*"')


class Bad(NamedTuple):
    """A fault of a row."""

    reason: str


class Blank(NamedTuple):
    """A page without text."""


Outcome = Draft | Bad | Blank
RawRow = tuple[int, Row | Bad]
"""(line from 1, row)."""


def read_source(
    source: PassageFile,
    options: ReadOptions,
    count: Callable[[int], None] = lambda num_bytes: None,
    *,
    start: tuple[int, int] = (0, 1),
) -> Iterator[tuple[Member, int, Outcome]]:
    """Yields (member, line from 1, what it gives) in this order, several times for a page.

    Args:
        source: the file or archive.
        options: how to read it.
        count: gets the numbers of bytes read.
        start: (number of a member, line) before which there may be nothing.

    Raises:
        InputError: the file cannot be read.
    """
    with reading(source.path):
        for member in members(source, count):
            if member.number >= start[0]:
                begin = start[1] if member.number == start[0] else 1
                for line, outcome in _read_member(member, options, begin):
                    yield member, line, outcome


def _read_member(member: Member, options: ReadOptions, start: int) -> Iterator[tuple[int, Outcome]]:
    context = Context(options=options, name=member.name)
    if options.format == "text" or (options.format == "auto" and member.suffix == ".txt"):
        yield from _read_text(member.stream, context)
        return
    for line, row in _TABLES.get(member.suffix, _json_rows)(member.stream, context, start):
        if isinstance(row, Bad):
            yield line, row
            continue
        shape = shape_of(row) if options.format == "auto" else options.format
        blank = True
        try:
            for draft in READERS[shape](row, line, context):
                yield line, draft
                blank = False
        except ValueError as error:
            yield line, Bad(str(error))
            blank = False
        if blank:
            yield line, Blank()


def _head(stream: BinaryIO) -> bytes:
    """The next bytes, without reading on."""
    head: bytes = stream.peek(1)  # type: ignore[attr-defined]
    return head.removeprefix(BYTE_ORDER_MARK).lstrip()


def _lines(stream: BinaryIO, start: int = 1) -> Iterator[tuple[int, bytes]]:
    """(number, line) of the lines that are not blank, from `start`, without ends and marks.

    Of a line above `MAX_LINE_BYTES` the begin is given, so that any file fits in memory.
    """
    number, fresh = 0, True
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += fresh
        if fresh and number >= start and not line.isspace():
            line = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
            yield number, line.rstrip(b"\r\n")
        fresh = line.endswith(b"\n")


def _json_rows(stream: BinaryIO, context: Context, start: int) -> Iterator[RawRow]:
    if _head(stream).startswith(b"["):
        yield from _array_items(stream)
        return
    for number, line in _lines(stream, start):
        if len(line) > MAX_LINE_BYTES:
            yield number, Bad(f"longer than {MAX_LINE_BYTES:,} bytes; one row per line is wanted")
            continue
        try:
            row = from_json(line)
        except ValueError as error:
            yield number, Bad(_why_no_json(line, error))
            continue
        yield number, _object(row)


def _array_items(stream: BinaryIO) -> Iterator[RawRow]:
    """The items of a file that is one array, which is read as a whole."""
    try:
        items = from_json(stream.read().removeprefix(BYTE_ORDER_MARK))
    except ValueError as error:
        yield 1, Bad(f"not a JSON array: {error}")
        return
    yield from enumerate(map(_object, items), start=1)


def _object(value: object) -> Row | Bad:
    return value if isinstance(value, dict) else Bad(f"not an object but {type(value).__name__}")


def _why_no_json(line: bytes, error: ValueError) -> str:
    try:
        line.decode()
    except UnicodeDecodeError as wrong:
        return f"byte {wrong.start + 1} is not UTF-8; save the file as UTF-8"
    return f"not JSON: {str(error).replace(' at line 1', ' at')}"


def _tsv_rows(stream: BinaryIO, context: Context, start: int) -> Iterator[RawRow]:
    """A row per line: a quote may stand alone, as in text that nobody quoted."""
    columns = list(context.options.columns)
    for number, line in _lines(stream):
        if not columns:
            columns = [_unquoted(cell) for cell in _text(line).split("\t")]
        elif number >= start:
            cells = [_unquoted(cell) for cell in _text(line).split("\t")]
            yield number, _row(columns, cells)


def _csv_rows(stream: BinaryIO, context: Context, start: int) -> Iterator[RawRow]:
    csv.field_size_limit(sys.maxsize)
    text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(text, strict=True)
    columns = list(context.options.columns)
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, Bad(f"not CSV: {error}")
            continue
        if not columns:
            columns = cells
        elif cells:
            yield number, _row(columns, cells)


def _row(columns: list[str], cells: list[str]) -> Row | Bad:
    if len(cells) != len(columns):
        return Bad(f"{len(cells)} columns, not the {len(columns)} of {', '.join(columns)}")
    return dict(zip(columns, cells, strict=True))


def _unquoted(cell: str) -> str:
    """A cell that was quoted, as it was before; others may begin and end with quotes, too."""
    return cell[1:-1].replace('""', '"') if _QUOTED.fullmatch(cell) else cell


def _text(line: bytes) -> str:
    """The text of a line; bytes that are no UTF-8 are found when the passage is checked."""
    return line.decode("utf-8", errors="surrogateescape")


def _parquet_rows(stream: BinaryIO, context: Context, start: int) -> Iterator[RawRow]:
    try:
        table = parquet.ParquetFile(stream)
        known = known_fields(context.options)
        names = [name for name in table.schema_arrow.names if name in known]
        number = 1
        for group in range(table.num_row_groups):
            num_rows = table.metadata.row_group(group).num_rows
            if number + num_rows <= start:
                number += num_rows
                continue
            for batch in table.iter_batches(ROWS_PER_READ, row_groups=[group], columns=names):
                for row in batch.to_pylist():
                    yield number, row
                    number += 1
    except (pa.ArrowException, UnicodeDecodeError, io.UnsupportedOperation) as error:
        raise InputError(
            f"corpus {context.name} is no parquet file ({error}); fetch it again, or unpack it"
        ) from error


def _read_text(stream: BinaryIO, context: Context) -> Iterator[tuple[int, Outcome]]:
    """A book: passages of whole paragraphs, its name as their title."""
    stem = file_stem(context.name)
    title = " ".join(Path(stem).name.replace("_", " ").split())
    begins: list[int] = []

    def paragraphs() -> Iterator[str]:
        for line, paragraph in _paragraphs(stream):
            begins.append(line)
            yield paragraph

    passages = cut(paragraphs(), context.options.passage_words)
    for number, (paragraph, text) in enumerate(passages):
        try:
            yield begins[paragraph], checked(f"{stem}-{number}", title, text)
        except ValueError as error:
            yield begins[paragraph], Bad(str(error))


def _paragraphs(stream: BinaryIO) -> Iterator[tuple[int, str]]:
    """(line, paragraph): blocks between blank lines, or lines in a file without a blank one."""
    blocks = b"\n\n" in _head(stream).replace(b"\r", b"")
    block: list[str] = []
    begin = last = 0
    for number, line in _lines(stream):
        if block and (number > last + 1 or not blocks):
            yield begin, " ".join(block)
            block = []
        if not block:
            begin = number
        block.append(_text(line).strip())
        last = number
    if block:
        yield begin, " ".join(block)


_TABLES: Mapping[str, Callable[[BinaryIO, Context, int], Iterator[RawRow]]] = {
    ".tsv": _tsv_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}
"""By suffix; all else is JSON lines."""

"""JSON lines and whole files, plain or compressed by the last suffix (`.gz`, `.zst`)."""

import gzip
import io
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import zstandard
from pydantic_core import to_json

from ur2.errors import InputError
from ur2.zstd import ZstdReader

MAX_PROBLEMS_SHOWN = 20
"""Problems that one error message lists; the rest are counted."""

MAX_LINE_BYTES = 4 << 20
"""Longest line that is taken for a row."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""Bytes that some editors put before UTF-8 text; they carry nothing."""


class Problems:
    """Collects what is wrong with one file, to be raised as one error."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._shown: list[str] = []
        self._count = 0

    def add(self, place: str, text: str) -> None:
        """Notes a problem at a place, such as `line 3` (all places count from 1)."""
        self._count += 1
        if len(self._shown) < MAX_PROBLEMS_SHOWN:
            self._shown.append(f"  {place}: {text}")

    def raise_if_any(self) -> None:
        """Raises one `InputError` naming the file, the first problems and how many there are."""
        if not self._count:
            return
        more = self._count - len(self._shown)
        tail = [f"  ... and {more} more"] if more else []
        head = f"{self._path}: {self._count} bad row(s); correct or remove them:"
        raise InputError("\n".join([head, *self._shown, *tail]))


def read_lines(path: str) -> Iterator[tuple[int, bytes]]:
    """Yields (line number from 1, bytes) of every line that is not blank.

    A byte order mark and carriage returns are dropped. Of a line above `MAX_LINE_BYTES` the first
    `MAX_LINE_BYTES` + 1 bytes are given, so that a file without line ends fits in memory.

    Raises:
        InputError: the file is missing or its compression is damaged.
    """
    with opened(path) as stream:
        number, start = 0, True
        while line := stream.readline(MAX_LINE_BYTES + 1):
            number += start
            if start and (text := _without_mark(line, number).strip()):
                yield number, text
            start = line.endswith(b"\n")


def read_all(path: str) -> bytes:
    """The whole file, without a byte order mark.

    Raises:
        InputError: as `read_lines`.
    """
    with opened(path) as stream:
        return stream.read().removeprefix(BYTE_ORDER_MARK)


@contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """Opens a file for reading, through its compression.

    Raises:
        InputError: the file is missing or its compression is damaged.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"no such file: {path}; check the path, or fetch or make it first")
    try:
        with _READERS.get(file.suffix, _open_plain)(file) as stream:
            yield stream
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise InputError(f"{path}: cannot be read ({error}); fetch or make it again") from error


def write_jsonl(path: str, rows: Iterable[object]) -> int:
    """Writes records or mappings, one per line, through a temporary file; returns how many.

    Raises:
        InputError: the folder cannot be written.
    """
    file = Path(path)
    partial = file.with_name(f".partial-{file.name}")
    count = 0
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _WRITERS.get(file.suffix, _create_plain)(partial) as stream:
            for row in rows:
                stream.write(to_json(row) + b"\n")
                count += 1
        partial.replace(file)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error})") from error
    finally:
        partial.unlink(missing_ok=True)
    return count


def _without_mark(line: bytes, number: int) -> bytes:
    return line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line


def _open_plain(file: Path) -> BinaryIO:
    return file.open("rb")


def _open_gzip(file: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(file, "rb"))


def _open_zstd(file: Path) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(ZstdReader(file.open("rb"))))


def _create_plain(file: Path) -> BinaryIO:
    return file.open("wb")


def _create_gzip(file: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(file, "wb"))


def _create_zstd(file: Path) -> BinaryIO:
    return cast(BinaryIO, zstandard.ZstdCompressor().stream_writer(file.open("wb"), closefd=True))


_READERS: Mapping[str, Callable[[Path], BinaryIO]] = {".gz": _open_gzip, ".zst": _open_zstd}
_WRITERS: Mapping[str, Callable[[Path], BinaryIO]] = {".gz": _create_gzip, ".zst": _create_zstd}

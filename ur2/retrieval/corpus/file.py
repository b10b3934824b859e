"""Passages on disk: an Arrow stream, memory-mapped, whose text takes no memory of its own."""

import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from ur2.errors import InputError
from ur2.types import Passage

SUFFIX = ".arrow"
ROWS_PER_CHUNK = 4096
MAX_MAPPED_BYTES = 48 * 2**20
"""Pages that reading single passages may map; then all are let go (the page cache keeps them).
"""
MAPPED_PER_PASSAGE = 3 * 2**16
"""Bytes that one passage may map: the kernel brings 64 KiB around a missing page, per column."""
_HASH_KEY, _STAMP_KEY = b"corpus_sha256", b"sources_stamp"
_END = b"\xff\xff\xff\xff\0\0\0\0"
"""Ends an Arrow stream."""


def embedded_text(title: str, text: str) -> str:
    """The words that stand for a passage in an index."""
    return f"{title}\n{text}" if title else text


class Corpus:
    """The passages of an index, read from a memory map."""

    def __init__(self, path: Path) -> None:
        """Opens a file that a `CorpusWriter` made.

        Raises:
            InputError: it is missing or no such file.
        """
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            table = pa.ipc.open_stream(pa.py_buffer(self._map)).read_all()
            self.sha256: str = table.schema.metadata[_HASH_KEY].decode()
            self.stamp: str = table.schema.metadata[_STAMP_KEY].decode()
            self._columns: tuple[Any, ...] = tuple(map(table.column, ("id", "title", "text")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is no corpus file; make it again") from error
        self._num_read = 0

    def __len__(self) -> int:
        return len(self._columns[0])

    def passage(self, row: int, score: float = 0.0) -> Passage:
        """The passage at `row`, with the score of the search that found it."""
        id_, title, text = (column[row].as_py() for column in self._columns)
        self._num_read += 1
        if self._num_read * MAPPED_PER_PASSAGE >= MAX_MAPPED_BYTES:
            self._let_go()
        return Passage(id=id_, title=title, text=text, score=score)

    def id_of(self, row: int) -> str:
        """The id of the passage at `row`."""
        return str(self._columns[0][row].as_py())

    def texts(self, start: int, stop: int) -> list[str]:
        """The texts that stand for the passages of rows [start, stop) in an index."""
        _, titles, texts = (
            column.slice(start, stop - start).to_pylist() for column in self._columns
        )
        return [embedded_text(title, text) for title, text in zip(titles, texts, strict=True)]

    def _let_go(self) -> None:
        self._num_read = 0
        if len(self._map) > MAX_MAPPED_BYTES:
            self._map.madvise(mmap.MADV_DONTNEED)


class CorpusWriter:
    """Appends chunks of passages to a file that can be cut back to any chunk and continued."""

    def __init__(self, path: Path, *, sha256: str, stamp: str = "", num_bytes: int = 0) -> None:
        """Goes on after the first `num_bytes` of the file; 0 begins it.

        Args:
            path: the file.
            sha256: what tells the corpus from any other, see `source_sha256`.
            stamp: what its sources looked like from outside, see `source_stamp`.
            num_bytes: what is kept of the file.
        """
        columns = [("id", pa.string()), ("title", pa.string()), ("text", pa.string())]
        told = {_HASH_KEY: sha256.encode(), _STAMP_KEY: stamp.encode()}
        self._schema = pa.schema(columns, metadata=told)
        self._file = path.open("r+b" if num_bytes else "wb")
        self._file.truncate(num_bytes)
        self._file.seek(num_bytes)
        if not num_bytes:
            self._file.write(self._schema.serialize())

    def append(self, ids: Sequence[str], titles: Sequence[str], texts: Sequence[str]) -> int:
        """Writes a chunk; returns the bytes that the file has with it."""
        arrays = [pa.array(column, pa.string()) for column in (ids, titles, texts)]
        self._file.write(pa.record_batch(arrays, schema=self._schema).serialize())
        self._file.flush()
        return self._file.tell()

    def finish(self) -> None:
        """Ends the file."""
        self._file.write(_END)
        self._file.flush()

    def sync(self) -> None:
        """Waits until what is written will outlive a power cut."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

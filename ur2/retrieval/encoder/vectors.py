"""Vectors on disk: equal shards of rows as plain `.npy` files, and the record of what made them.

    vectors.json  00000.npy  00001.npy  ...

A shard appears whole or not at all, so that encoding goes on after a kill with the missing ones.
Shapes: _N rows, _D width.
"""

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ur2.errors import InputError
from ur2.locks import LOCK_FILE
from ur2.retrieval.manifest import EncoderSpec
from ur2.retrieval.partial import write_atomically, writing

RECORD_FILE = "vectors.json"
MAX_OPEN_SHARDS = 64
"""Shards kept mapped at once; the others are mapped again when they are asked for."""


class VectorsRecord(BaseModel):
    """The facts that decide the content of every shard."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    corpus_sha256: str
    encoder: EncoderSpec
    num_rows: Annotated[int, Field(ge=1)]
    dimension: Annotated[int, Field(ge=1)]
    type: Literal["float32", "float16"]
    shard_rows: Annotated[int, Field(ge=1)]
    """Rows per shard; the last one may have fewer."""

    @property
    def num_shards(self) -> int:
        """How many files hold the rows."""
        return -(-self.num_rows // self.shard_rows)

    def rows_of(self, shard: int) -> range:
        """The rows that a shard holds."""
        start = shard * self.shard_rows
        return range(start, min(start + self.shard_rows, self.num_rows))


class VectorFolder:
    """Memory-mapped (N, D) vectors: a slice is read from disk as it is asked for."""

    def __init__(self, folder: Path) -> None:
        """Opens complete vectors.

        Raises:
            InputError: a shard is missing or damaged, or the folder holds none.
        """
        record = read_record(folder)
        if record is None:
            raise InputError(f"{folder} holds no vectors ({RECORD_FILE}); build the index again")
        self.record = record
        self._folder = folder
        self._open = lru_cache(maxsize=MAX_OPEN_SHARDS)(self._map)
        missing = missing_shards(folder, record)
        if missing:
            raise InputError(
                f"{folder} lacks {len(missing)} of {record.num_shards} shards of vectors; "
                "build the index again"
            )

    def __len__(self) -> int:
        return self.record.num_rows

    @property
    def dimension(self) -> int:
        """D."""
        return self.record.dimension

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors of a slice without step, or of row numbers in any order; (rows, D)."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step != 1:
                raise ValueError("a slice of vectors has no step")
            return self._gather(np.arange(start, max(start, stop)))
        return self._gather(np.asarray(rows, dtype=np.int64))

    def blocks(self, num_rows: int) -> Iterator[NDArray[np.float32]]:
        """All vectors in order, at most `num_rows` at a time."""
        for start in range(0, len(self), num_rows):
            yield self[start : start + num_rows]

    def _gather(self, row_K: NDArray[np.int64]) -> NDArray[np.float32]:
        vector_KD = np.empty((len(row_K), self.dimension), dtype=np.float32)
        shard_K = row_K // self.record.shard_rows
        for shard in np.unique(shard_K):
            here = shard_K == shard
            vector_KD[here] = self._open(int(shard))[row_K[here] - shard * self.record.shard_rows]
        return vector_KD

    def _map(self, shard: int) -> NDArray[np.float32]:
        return cast(NDArray[np.float32], np.load(shard_path(self._folder, shard), mmap_mode="r"))


def shard_path(folder: Path, shard: int) -> Path:
    """The file of a shard."""
    return folder / f"{shard:05d}.npy"


def read_record(folder: Path) -> VectorsRecord | None:
    """The record in `folder`, if there is a readable one."""
    try:
        return VectorsRecord.model_validate_json((folder / RECORD_FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def write_record(folder: Path, record: VectorsRecord) -> None:
    """Says what the shards of `folder` are of; the record comes before the first of them."""
    write_atomically(folder / RECORD_FILE, (record.model_dump_json(indent=2) + "\n").encode())


def missing_shards(folder: Path, record: VectorsRecord) -> list[int]:
    """The shards of `record` that are not in `folder` in the right shape."""
    return [
        shard
        for shard in range(record.num_shards)
        if _shape(shard_path(folder, shard)) != (len(record.rows_of(shard)), record.dimension)
    ]


def clear(folder: Path) -> None:
    """Makes way for other vectors.

    Raises:
        InputError: the folder holds something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = {path.name for path in folder.iterdir()} - {LOCK_FILE}
    if names and RECORD_FILE not in names:
        raise InputError(f"vectors={folder} holds something else; give another folder")
    for path in folder.glob("[0-9]*.npy*"):
        path.unlink()
    (folder / RECORD_FILE).unlink(missing_ok=True)


def write_shard(folder: Path, shard: int, vector_ND: NDArray[np.floating]) -> None:
    """Puts a whole shard in its place at once."""
    path = shard_path(folder, shard)
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        with writing(path), partial.open("wb") as file:
            np.save(file, vector_ND, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _shape(path: Path) -> tuple[int, ...] | None:
    try:
        return cast(tuple[int, ...], np.load(path, mmap_mode="r", allow_pickle=False).shape)
    except (OSError, ValueError, EOFError):
        return None

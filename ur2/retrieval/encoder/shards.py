"""Passages to shards of vectors on disk: one process per device, and no passage twice.

A shard is encoded on its own, its passages sorted by length, so that an interrupted run goes on
with the missing shards and ends with the same bytes. The first device is this process's own, the
others are those of children.

Shapes: _N passages of a shard, _D width of a vector.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import RawValue
from pathlib import Path
from typing import Any

import numpy as np

from ur2.errors import ComponentError, InputError, run_entry
from ur2.retrieval.corpus.file import Corpus
from ur2.retrieval.encoder.sentence_encoder import (
    Encoder,
    SentenceTransformerEncoder,
    devices,
    num_threads,
)
from ur2.retrieval.encoder.vectors import (
    VectorFolder,
    VectorsRecord,
    clear,
    missing_shards,
    read_record,
    write_record,
    write_shard,
)
from ur2.retrieval.manifest import EncoderSpec
from ur2.retrieval.options import BuildOptions
from ur2.retrieval.partial import progress_bar

PASSAGES_PER_ROUND = 1024
"""Encoded between two moves of the progress bar."""
GPU_BATCH, CPU_BATCH = 256, 32
POLL_S = 0.2

LoadEncoder = Callable[[EncoderSpec, BuildOptions], Encoder]
Advance = Callable[[int], None]


def load_encoder(spec: EncoderSpec, options: BuildOptions) -> Encoder:
    """The sentence-transformers model that `spec` names."""
    batch_size = options.batch_size or (GPU_BATCH if "cuda" in options.device else CPU_BATCH)
    return SentenceTransformerEncoder(spec, options, batch_size=batch_size)


class Encoding:
    """The vectors of one corpus in one folder: those that are there, and the making of others."""

    def __init__(
        self,
        corpus: Path,
        spec: EncoderSpec,
        folder: Path,
        options: BuildOptions,
        load: LoadEncoder = load_encoder,
    ) -> None:
        """Loads the encoder, unless all vectors are there; clears out those of something else.

        Raises:
            InputError: the encoder cannot be had, or the folder holds something else.
        """
        self._corpus_path, self._corpus = corpus, Corpus(corpus)
        self._folder, self._load = folder, load
        names = devices(options.device, options.num_workers)
        share = max(1, num_threads(options.num_threads) // len(names))
        self._options = [
            options.model_copy(update={"device": name, "num_threads": share}) for name in names
        ]
        self._encoder: Encoder | None = None
        self.record = self._find(spec, options) or self._begin(spec, options)

    def run(self) -> VectorFolder:
        """Encodes what is missing.

        Raises:
            ComponentError: a child failed; what is done stays.
        """
        missing = missing_shards(self._folder, self.record)
        if not missing:
            return VectorFolder(self._folder)
        num_missing = sum(len(self.record.rows_of(shard)) for shard in missing)
        parts = [missing[i :: len(self._options)] for i in range(len(self._options))]
        with progress_bar("passages") as progress:
            task = progress.add_task("encoding", total=len(self._corpus))
            progress.advance(task, len(self._corpus) - num_missing)
            with self._children(parts[1:]) as children:

                def advance(num: int) -> None:
                    progress.advance(task, num + sum(child.news() for child in children))

                if self._encoder is not None:
                    encode_shards(
                        self._corpus, self._encoder, self._folder, self.record, parts[0], advance
                    )
                while any(child.is_at_work() for child in children):
                    advance(0)
                    time.sleep(POLL_S)
        return VectorFolder(self._folder)

    def _find(self, spec: EncoderSpec, options: BuildOptions) -> VectorsRecord | None:
        """The record of complete vectors of this corpus and encoder."""
        record = read_record(self._folder)
        if record is None or missing_shards(self._folder, record):
            return None
        wanted = (self._corpus.sha256, spec.fitted_to(record.encoder), options.vector_type)
        return record if wanted == (record.corpus_sha256, record.encoder, record.type) else None

    def _begin(self, spec: EncoderSpec, options: BuildOptions) -> VectorsRecord:
        self._encoder = self._load(spec, self._options[0])
        record = VectorsRecord(
            corpus_sha256=self._corpus.sha256,
            encoder=spec.fitted_to(self._encoder.spec),
            num_rows=len(self._corpus),
            dimension=self._encoder.dimension,
            type=options.vector_type,
            shard_rows=options.shard_size,
        )
        if read_record(self._folder) != record:
            clear(self._folder)
            write_record(self._folder, record)
        return record

    @contextmanager
    def _children(self, parts: Sequence[Sequence[int]]) -> Iterator[list["_Child"]]:
        children = [
            _Child(self._corpus_path, self._folder, self.record, part, options, self._load)
            for part, options in zip(parts, self._options[1:], strict=True)
            if part
        ]
        try:
            yield children
        finally:
            for child in children:
                child.end()


def encode_shards(
    corpus: Corpus,
    encoder: Encoder,
    folder: Path,
    record: VectorsRecord,
    shards: Sequence[int],
    advance: Advance,
) -> None:
    """Encodes and writes whole shards; `advance` gets the number of passages done since."""
    for shard in shards:
        rows = record.rows_of(shard)
        texts = corpus.texts(rows.start, rows.stop)
        vector_ND = np.empty((len(rows), record.dimension), dtype=record.type)
        # The longest first: what does not fit into memory fails at once.
        order_N = np.argsort([-len(text) for text in texts], kind="stable")
        for start in range(0, len(order_N), PASSAGES_PER_ROUND):
            chosen = order_N[start : start + PASSAGES_PER_ROUND]
            vector_ND[chosen] = encoder.encode_passages([texts[i] for i in chosen])
            advance(len(chosen))
        write_shard(folder, shard, vector_ND)


class _Child:
    """A process that encodes shards on a device of its own."""

    def __init__(
        self,
        corpus: Path,
        folder: Path,
        record: VectorsRecord,
        shards: Sequence[int],
        options: BuildOptions,
        load: LoadEncoder,
    ) -> None:
        self._device = options.device
        self._done: Any = RawValue("q", 0)
        self._told = 0
        arguments = (corpus, folder, record, shards, options, load, self._done, os.getpid())
        # A forked process could use neither CUDA nor the threads of its parent.
        self._process: BaseProcess = multiprocessing.get_context("spawn").Process(
            target=_encode_in_child, args=arguments, daemon=True
        )
        self._process.start()

    def news(self) -> int:
        """Passages encoded since the last call."""
        done = int(self._done.value)
        num, self._told = done - self._told, done
        return num

    def is_at_work(self) -> bool:
        """Whether it goes on.

        Raises:
            ComponentError: it failed.
        """
        code = self._process.exitcode
        if code:
            raise ComponentError(
                f"the process that encodes on {self._device} ended with exit code {code}, see "
                "above; the same command goes on from the shards that are done"
            )
        return code is None

    def end(self) -> None:
        """Stops it, whatever it does."""
        self._process.terminate()
        self._process.join()


def _encode_in_child(
    corpus: Path,
    folder: Path,
    record: VectorsRecord,
    shards: Sequence[int],
    options: BuildOptions,
    load: LoadEncoder,
    done: Any,
    parent: int,
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent ends its children.

    def advance(num: int) -> None:
        if os.getppid() != parent:
            os._exit(1)
        done.value += num

    def work() -> None:
        encoder = load(record.encoder, options)
        if encoder.spec != record.encoder:
            raise InputError(f"encoder {record.encoder} has become {encoder.spec} meanwhile")
        encode_shards(Corpus(corpus), encoder, folder, record, shards, advance)

    run_entry(work)

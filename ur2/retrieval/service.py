"""The core of retrieval: many callers' queries become few batches, and repeats cost nothing.

    search() -> cache? -> in flight? -> waiting -> batch -> encode + search (one thread) -> callers

The one thread keeps the event loop free and gives the encoder one caller. While it works, queries
gather, so that batches grow with the load.
"""

import asyncio
import time
import unicodedata
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ur2.errors import RetrievalError
from ur2.retrieval.encoder import Encoder, SentenceTransformerEncoder, num_threads
from ur2.retrieval.errors import RetrievalUnavailableError
from ur2.retrieval.options import ServiceOptions
from ur2.retrieval.searcher import Searcher
from ur2.retrieval.stats import QueryStats
from ur2.retrieval.store import Store
from ur2.types import Passage

Passages = tuple[Passage, ...]


class _Key(NamedTuple):
    query: str
    top_k: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    key: _Key
    answer: asyncio.Future[Passages]
    since_s: float


class RetrievalService:
    """Searches one index for many concurrent callers of one event loop."""

    def __init__(self, store: Store, encoder: Encoder | None, options: ServiceOptions) -> None:
        """Serves `store` with the encoder that made it, if one did.

        Raises:
            InputError: the index was made with another encoder.
        """
        self.store = store
        self._searcher = Searcher(store, encoder)
        self._options = options
        self._num_threads = num_threads(options.num_threads)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="retrieval")
        self._cache: OrderedDict[_Key, Passages] = OrderedDict()
        self._in_flight: dict[_Key, asyncio.Future[Passages]] = {}
        self._waiting: list[_Waiting] = []
        self._batching: asyncio.Task[None] | None = None
        self._closed = False
        self._stats = QueryStats()
        self._num_batches = 0
        self._num_searched = 0

    @classmethod
    def open(cls, folder: str | Path, options: ServiceOptions) -> "RetrievalService":
        """Opens an index folder and loads the encoder that its manifest names.

        Raises:
            InputError: the folder holds no usable index, or its encoder cannot be loaded.
        """
        store = Store(Path(folder))
        spec = store.manifest.recipe.encoder
        encoder = None
        if spec is not None:
            encoder = SentenceTransformerEncoder(spec, options, batch_size=options.max_batch)
        return cls(store, encoder, options)

    async def search(self, queries: Sequence[str], top_k: int) -> list[Passages]:
        """The best passages of each query, best first; fewer than `top_k` in a small corpus.

        Raises:
            RetrievalUnavailableError: encoding or searching failed.
            RetrievalError: the service is closed.
        """
        if self._closed:
            raise RetrievalError("the retrieval service is closed")
        started_s = time.perf_counter()
        asked = [self._ask(_Key(normalise(query), top_k)) for query in queries]
        failed = True
        try:
            # Shielded, as an answer may have other callers too, who do not give up with this one.
            answers = await asyncio.gather(*(asyncio.shield(answer) for answer, _ in asked))
            failed = False
        finally:
            latency_s = time.perf_counter() - started_s
            for _, cached in asked:
                self._stats.add(latency_s, failed=failed, cached=cached)
        return list(answers)

    def metrics(self) -> dict[str, float]:
        """Figures of recent queries, and of batches since the start.

        `latency_p50_s`, `latency_p99_s`, `failure_rate`, `cache_hit_rate` (a query that another
        caller was already waiting for counts as a hit), `num_queries`, `num_batches`,
        `batch_size_mean`.
        """
        return {
            **self._stats.metrics(),
            "cache_hit_rate": self._stats.cache_hit_rate,
            "num_batches": float(self._num_batches),
            "batch_size_mean": self._num_searched / max(self._num_batches, 1),
        }

    async def close(self) -> None:
        """Fails whoever still waits, and ends the worker thread."""
        self._closed = True
        if self._batching is not None:
            self._batching.cancel()
        for answer in self._in_flight.values():
            answer.set_exception(RetrievalError("the retrieval service is closed"))
        self._in_flight.clear()
        self._waiting.clear()
        await asyncio.to_thread(self._worker.shutdown)

    def _ask(self, key: _Key) -> tuple[asyncio.Future[Passages], bool]:
        """The answer to come, and whether it costs no search of its own."""
        loop = asyncio.get_running_loop()
        if key in self._cache:
            self._cache.move_to_end(key)
            known: asyncio.Future[Passages] = loop.create_future()
            known.set_result(self._cache[key])
            return known, True
        if key in self._in_flight:
            return self._in_flight[key], True
        answer: asyncio.Future[Passages] = loop.create_future()
        self._in_flight[key] = answer
        self._waiting.append(_Waiting(key=key, answer=answer, since_s=loop.time()))
        if self._batching is None:
            self._batching = loop.create_task(self._answer_waiting())
        return answer, False

    async def _answer_waiting(self) -> None:
        """Forms batches until nobody waits."""
        loop = asyncio.get_running_loop()
        window_s, max_batch = self._options.batch_window_ms / 1e3, self._options.max_batch
        while self._waiting:
            rest_s = self._waiting[0].since_s + window_s - loop.time()
            if rest_s > 0 and len(self._waiting) < max_batch:
                await asyncio.sleep(rest_s)
            batch, self._waiting = self._waiting[:max_batch], self._waiting[max_batch:]
            await self._answer(batch)
        self._batching = None

    async def _answer(self, batch: list[_Waiting]) -> None:
        keys = [waiting.key for waiting in batch]
        job = asyncio.get_running_loop().run_in_executor(self._worker, self._search, keys)
        await asyncio.wait((job,))
        self._num_batches += 1
        self._num_searched += len(batch)
        error = job.exception()
        for number, waiting in enumerate(batch):
            del self._in_flight[waiting.key]
            if error is None:
                self._remember(waiting.key, job.result()[number])
                waiting.answer.set_result(job.result()[number])
            else:
                failure = RetrievalUnavailableError(f"encoding or searching failed: {error!r}")
                failure.__cause__ = error
                waiting.answer.set_exception(failure)

    def _search(self, keys: Sequence[_Key]) -> list[Passages]:
        """Runs in the worker thread."""
        top_k = max(key.top_k for key in keys)
        queries = [key.query for key in keys]
        found = self._searcher.search(queries, top_k, num_threads=self._num_threads)
        return [passages[: key.top_k] for key, passages in zip(keys, found, strict=True)]

    def _remember(self, key: _Key, passages: Passages) -> None:
        self._cache[key] = passages
        if len(self._cache) > self._options.cache_size:
            self._cache.popitem(last=False)


def normalise(query: str) -> str:
    """One spelling for queries that differ in white space or Unicode composition only.

    Case is kept: it means something to some encoders. What is no Unicode becomes `?`, as one such
    query would fail the others of its batch.
    """
    valid = query.encode("utf-8", errors="replace").decode("utf-8")
    return " ".join(unicodedata.normalize("NFC", valid).split())

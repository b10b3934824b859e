"""The core of retrieval: many callers' queries become few batches, and repeats cost nothing.

    search() -> cache? -> in flight? -> waiting -> batch -> encode + search (threads) -> callers

The threads keep the event loop free. On a CPU each works on a batch of its own, as one operation on
a small model gains little from several cores. While all work, queries gather, so that batches grow
with the load. A batch asks one opening of one index: one that is replaced meanwhile answers those
who asked before, and is freed with its last batch.
"""

import asyncio
import math
import unicodedata
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ur2.errors import InputError, RetrievalError
from ur2.retrieval.client.errors import (
    RetrievalDeadlineError,
    RetrievalOverloadedError,
    RetrievalUnavailableError,
)
from ur2.retrieval.client.stats import QueryStats
from ur2.retrieval.options import ServiceOptions
from ur2.retrieval.service.corpora import Corpora, OpenIndex, num_workers
from ur2.retrieval.service.meters import Meters
from ur2.types import Passage

Passages = tuple[Passage, ...]
Answer = asyncio.Future[Passages]
MIN_SHARE = 8
"""Queries that are not split over free threads any further."""
OUTCOME_OF = {RetrievalOverloadedError: "overloaded", RetrievalDeadlineError: "late"}


class _Key(NamedTuple):
    opened: OpenIndex
    query: str
    top_k: int


@dataclass(slots=True, kw_only=True, eq=False)
class _Waiting:
    key: _Key
    answer: Answer
    since_s: float
    until_s: float
    """When the last of those who ask gives up."""


class RetrievalService:
    """Searches named corpora for many concurrent callers of one event loop."""

    def __init__(self, corpora: Corpora, options: ServiceOptions) -> None:
        """Serves what is open of `corpora`, now and later."""
        self.corpora = corpora
        self._meters = Meters()
        self._options = options
        self._num_workers = num_workers(options)
        self._workers = ThreadPoolExecutor(self._num_workers, thread_name_prefix="retrieval")
        self._answering: set[asyncio.Task[None]] = set()
        self._cache: OrderedDict[_Key, Passages] = OrderedDict()
        self._in_flight: dict[_Key, _Waiting] = {}
        self._waiting: list[_Waiting] = []
        self._batching: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()
        self._closed = False
        self._stats = QueryStats()
        self._num_cut = 0
        self._num_empty = 0
        self._num_batches = 0
        self._num_searched = 0
        self._batch_s = 0.0

    @classmethod
    def open(cls, folders: Mapping[str, str | Path], options: ServiceOptions) -> "RetrievalService":
        """Opens index folders, the first of them the default, and loads their encoders.

        Raises:
            InputError: a folder holds no usable index, or its encoder cannot be loaded.
        """
        corpora = Corpora(folders, options)
        for name in corpora.names:
            corpora.open(name)
        return cls(corpora, options)

    async def search(
        self,
        queries: Sequence[str],
        top_k: int,
        corpus: str | None = None,
        within_s: float | None = None,
    ) -> list[Passages]:
        """The best passages of each query, best first; fewer than `top_k` in a small corpus.

        An empty query has none; one that is too long is cut.

        Args:
            queries: what to look for.
            top_k: passages per query.
            corpus: where; None is the default.
            within_s: how long the caller waits; what has not begun by then is not searched.

        Raises:
            RetrievalUnavailableError: overloaded, too late, or encoding or searching failed.
            RetrievalError: there is no such corpus, or the service is closed.
        """
        if self._closed:
            raise RetrievalError("the retrieval service is closed")
        started_s = asyncio.get_running_loop().time()
        index = self.corpora[corpus]
        bounded = [self._bounded(query) for query in queries]
        keys = [_Key(index, query, top_k) for query in bounded if query]
        outcome, num_hits = "failed", 0
        try:
            self._admit(keys)
            num_waiting = len(self._waiting)
            until_s = math.inf if within_s is None else started_s + within_s
            answers = [self._ask(key, started_s, until_s) for key in keys]
            num_hits = len(keys) - (len(self._waiting) - num_waiting)
            found = iter(await _settle(answers, within_s))
            outcome = "answered"
        except RetrievalUnavailableError as error:
            outcome = OUTCOME_OF.get(type(error), outcome)
            raise
        finally:
            latency_s = asyncio.get_running_loop().time() - started_s
            self._count(index.name, outcome, latency_s, num_hits=num_hits, num=len(keys))
        return [next(found) if query else () for query in bounded]

    async def reload(self, corpus: str | None = None) -> OpenIndex:
        """Opens an index folder again and answers from it; what was open serves until then.

        Raises:
            UnknownCorpusError: there is no such corpus.
            InputError: the folder holds no usable index; what was open goes on serving.
        """
        async with self._opening:
            name = corpus if corpus is not None else self.corpora.names[0]
            try:
                opened = await asyncio.to_thread(self.corpora.open, name)
            except InputError:
                self._meters.reloads.labels(name, "refused").inc()
                raise
            # Whoever asks from now on has other keys; the rest only frees what was remembered.
            for key in [key for key in self._cache if key.opened.name == name]:
                del self._cache[key]
            self._meters.reloads.labels(name, "opened").inc()
            return opened

    def metrics(self) -> dict[str, float]:
        """Figures of recent queries, and of batches since the start.

        `latency_p50_s`, `latency_p99_s`, `failure_rate`, `cache_hit_rate` (a query that another
        caller was already waiting for counts as a hit), `num_queries`, `num_batches`,
        `batch_size_mean`; `num_cut` and `num_empty`, queries that were too long or empty.
        """
        return {
            **self._stats.metrics(),
            "cache_hit_rate": self._stats.cache_hit_rate,
            "num_cut": float(self._num_cut),
            "num_empty": float(self._num_empty),
            "num_batches": float(self._num_batches),
            "batch_size_mean": self._num_searched / max(self._num_batches, 1),
        }

    def prometheus(self) -> bytes:
        """The figures of the service in the text format of Prometheus."""
        num_passages = {index.name: index.manifest.num_passages for index in self.corpora}
        return self._meters.text(num_waiting=len(self._waiting), num_passages=num_passages)

    async def close(self) -> None:
        """Fails whoever still waits, and ends the threads."""
        self._closed = True
        for task in (*self._answering, *([self._batching] if self._batching else [])):
            task.cancel()
        for waiting in self._in_flight.values():
            waiting.answer.set_exception(RetrievalError("the retrieval service is closed"))
        self._in_flight.clear()
        self._waiting.clear()
        await asyncio.to_thread(self._workers.shutdown)

    def _bounded(self, query: str) -> str:
        """The query as it is searched with: what a policy writes costs no more than it may."""
        text, longest = query, self._options.max_query_chars
        if len(query) > longest:
            self._num_cut += 1
            self._meters.bounded.labels("cut").inc()
            text = query[:longest]
        text = normalise(text)
        if not text:
            self._num_empty += 1
            self._meters.bounded.labels("empty").inc()
        return text

    def _admit(self, keys: Sequence[_Key]) -> None:
        """Turns queries away that would have to wait where too many do."""
        num_waiting = len(self._waiting)
        if num_waiting < self._options.max_waiting:
            return
        if all(key in self._cache or key in self._in_flight for key in keys):
            return
        num_batches = math.ceil(num_waiting / self._options.max_batch)
        rest_s = self._batch_s * math.ceil(num_batches / self._num_workers)
        raise RetrievalOverloadedError(f"{num_waiting} queries wait already", retry_after_s=rest_s)

    def _ask(self, key: _Key, now_s: float, until_s: float) -> Passages | Answer:
        """Passages from the cache, or the answer to come."""
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        if key in self._in_flight:
            waiting = self._in_flight[key]
            waiting.until_s = max(waiting.until_s, until_s)
            return waiting.answer
        loop = asyncio.get_running_loop()
        answer: Answer = loop.create_future()
        # Whoever asked may have given up by the time that it fails.
        answer.add_done_callback(asyncio.Future.exception)
        waiting = _Waiting(key=key, answer=answer, since_s=now_s, until_s=until_s)
        self._in_flight[key] = waiting
        self._waiting.append(waiting)
        if self._batching is None:
            self._batching = loop.create_task(self._answer_waiting())
        return answer

    async def _answer_waiting(self) -> None:
        """Forms batches until nobody waits."""
        loop = asyncio.get_running_loop()
        window_s, max_batch = self._options.batch_window_ms / 1e3, self._options.max_batch
        while self._waiting:
            if len(self._answering) == self._num_workers:
                await asyncio.wait(self._answering, return_when=asyncio.FIRST_COMPLETED)
            rest_s = self._waiting[0].since_s + window_s - loop.time()
            if rest_s > 0 and len(self._waiting) < max_batch:
                await asyncio.sleep(rest_s)
            if batch := self._next_batch():
                task = loop.create_task(self._answer(batch))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)
        self._batching = None

    def _next_batch(self) -> list[_Waiting]:
        """The queries that have waited longest, of one index; those that are too late are out."""
        now_s = asyncio.get_running_loop().time()
        index = self._waiting[0].key.opened
        num_free = self._num_workers - len(self._answering)
        share = max(MIN_SHARE, math.ceil(len(self._waiting) / num_free))
        size = min(self._options.max_batch, share)
        batch: list[_Waiting] = []
        rest: list[_Waiting] = []
        for waiting in self._waiting:
            if waiting.until_s <= now_s:
                del self._in_flight[waiting.key]
                waiting.answer.set_exception(RetrievalDeadlineError("not searched: too late"))
            elif waiting.key.opened is index and len(batch) < size:
                batch.append(waiting)
            else:
                rest.append(waiting)
        self._waiting = rest
        return batch

    async def _answer(self, batch: list[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        job = loop.run_in_executor(self._workers, _search, [waiting.key for waiting in batch])
        await asyncio.wait((job,))
        self._batch_s = loop.time() - started_s
        self._num_batches += 1
        self._num_searched += len(batch)
        self._meters.batch_size.observe(len(batch))
        self._meters.batch_s.observe(self._batch_s)
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

    def _remember(self, key: _Key, passages: Passages) -> None:
        if self.corpora[key.opened.name] is not key.opened:
            return
        self._cache[key] = passages
        if len(self._cache) > self._options.cache_size:
            self._cache.popitem(last=False)

    def _count(
        self, corpus: str, outcome: str, latency_s: float, *, num_hits: int, num: int
    ) -> None:
        for number in range(num):
            self._stats.add(latency_s, failed=outcome != "answered", cached=number < num_hits)
        self._meters.latency_s.observe(latency_s)
        self._meters.queries.labels(corpus, outcome).inc(num)
        self._meters.cache_hits.inc(num_hits)


async def _settle(answers: Sequence[Passages | Answer], within_s: float | None) -> list[Passages]:
    """Waits for all answers or the first failure; the answers have other callers too and go on."""
    pending = [answer for answer in answers if isinstance(answer, asyncio.Future)]
    if pending:
        done, late = await asyncio.wait(
            set(pending), timeout=within_s, return_when=asyncio.FIRST_EXCEPTION
        )
        for answer in done:
            answer.result()
        if late:
            raise RetrievalDeadlineError(f"no answer within {within_s:g} s")
    return [answer.result() if isinstance(answer, asyncio.Future) else answer for answer in answers]


def _search(keys: Sequence[_Key]) -> list[Passages]:
    """Runs in one of the threads; all keys are of one index."""
    top_k = max(key.top_k for key in keys)
    found = keys[0].opened.search([key.query for key in keys], top_k)
    return [passages[: key.top_k] for key, passages in zip(keys, found, strict=True)]


def normalise(query: str) -> str:
    """One spelling for queries that differ in white space or Unicode composition only.

    Case is kept: it means something to some encoders. What is no Unicode becomes `?`, as one such
    query would fail the others of its batch.
    """
    valid = query.encode(errors="replace").decode()
    return " ".join(unicodedata.normalize("NFC", valid).split())

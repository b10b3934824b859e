"""The caller's side of retrieval: a deadline, bounded retries, and failures as values.

RetrievalClient (deadline, breaker, retries, figures) -> Transport (one attempt) -> service
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import httpx
from pydantic import ValidationError
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    stop_before_delay,
    wait_random_exponential,
)

from ur2.endpoints.breaker import Breaker
from ur2.endpoints.connections import many_connections
from ur2.errors import InputError, RetrievalError
from ur2.retrieval.client.errors import RetrievalOverloadedError, RetrievalUnavailableError
from ur2.retrieval.client.stats import QueryStats
from ur2.retrieval.client.wire import MAX_DEADLINE_S, RetrieveRequest, ScoredResponse, to_passage
from ur2.types import Passage, RetrievalFailed

Passages = tuple[Passage, ...]
MAX_BACKOFF_S = 5.0
CONNECT_TIMEOUT_S = 5.0
MIN_WITHIN_S = 0.001
OVERLOADED = 429
PASSING_STATUSES = frozenset({408, OVERLOADED, 500, 502, 503, 504})
"""HTTP statuses after which another attempt may succeed."""


class Retriever(Protocol):
    """The search of episodes: passages or a typed failure for each query, never an exception."""

    async def search(
        self, queries: Sequence[str], top_k: int, corpus: str | None = None
    ) -> list[Passages | RetrievalFailed]:
        """One outcome per query, in order; without a `corpus` from the default one."""


class Transport(Protocol):
    """One attempt at asking a service."""

    async def search(
        self, queries: Sequence[str], top_k: int, corpus: str | None, within_s: float
    ) -> list[Passages]:
        """One result per query, in order; the caller waits no longer than `within_s`.

        Raises:
            RetrievalUnavailableError: no answer this time; another attempt may succeed.
            RetrievalError: asking again is no use.
        """

    async def close(self) -> None:
        """Lets go of connections; the service goes on."""


class RetrievalClient:
    """A `Retriever` over any transport."""

    def __init__(
        self,
        transport: Transport,
        *,
        deadline_s: float = 30.0,
        max_retries: int = 3,
        backoff_s: float = 0.1,
        breaker_failures: int = 10,
        breaker_rest_s: float = 5.0,
        max_query_chars: int = 4096,
    ) -> None:
        """Asks through `transport`.

        Args:
            transport: makes one attempt.
            deadline_s: the longest a search may take, retries included.
            max_retries: further attempts after `RetrievalUnavailableError`.
            backoff_s: scale of the random pauses between attempts, doubled after each.
            breaker_failures: searches failed in a row, after which the next fail at once.
            breaker_rest_s: how long they do, until one tries again.
            max_query_chars: characters of a query that are sent.
        """
        self._transport = transport
        self._deadline_s = deadline_s
        self._max_retries = max_retries
        self._pause = wait_random_exponential(multiplier=backoff_s, max=MAX_BACKOFF_S)
        self._max_query_chars = max_query_chars
        self._breaker = Breaker(breaker_failures, breaker_rest_s)
        self._stats = QueryStats()

    async def search(
        self, queries: Sequence[str], top_k: int, corpus: str | None = None
    ) -> list[Passages | RetrievalFailed]:
        """One outcome per query: its passages, or why there are none.

        What a policy writes is no failure of the service: an empty query finds nothing without
        being sent, and a long one is cut.
        """
        started_s = time.perf_counter()
        bounded = [query[: self._max_query_chars] for query in queries]
        sent = [query for query in bounded if query.strip()]
        outcomes: list[Passages | RetrievalFailed]
        try:
            outcomes = list(await self._search(sent, top_k, corpus)) if sent else []
        except RetrievalError as error:
            outcomes = [RetrievalFailed(reason=str(error)) for _ in sent]
        latency_s = time.perf_counter() - started_s
        for outcome in outcomes:
            self._stats.add(latency_s, failed=isinstance(outcome, RetrievalFailed))
        answers = iter(outcomes)
        return [next(answers) if query.strip() else () for query in bounded]

    def metrics(self) -> dict[str, float]:
        """Over recent queries: `latency_p50_s`, `latency_p99_s`, `failure_rate`; `num_queries`."""
        return self._stats.metrics()

    async def close(self) -> None:
        """Closes the transport."""
        await self._transport.close()

    async def _search(
        self, queries: Sequence[str], top_k: int, corpus: str | None
    ) -> list[Passages]:
        if not self._breaker.admits():
            raise RetrievalUnavailableError("not asked: the retriever has failed too often lately")
        until_s = time.monotonic() + self._deadline_s

        async def attempt() -> list[Passages]:
            return await self._transport.search(
                queries, top_k, corpus, max(until_s - time.monotonic(), MIN_WITHIN_S)
            )

        try:
            async with asyncio.timeout(self._deadline_s):
                found: list[Passages] = await self._attempts()(attempt)
        except TimeoutError as error:
            self._breaker.failed()
            raise RetrievalError(f"no answer within {self._deadline_s:g} s") from error
        except RetrievalOverloadedError:  # it works, if too hard
            raise
        except RetrievalUnavailableError:
            self._breaker.failed()
            raise
        except RetrievalError:
            self._breaker.succeeded()
            raise
        self._breaker.succeeded()
        return found

    def _attempts(self) -> AsyncRetrying:
        return AsyncRetrying(
            retry=retry_if_exception_type(RetrievalUnavailableError),
            stop=stop_after_attempt(self._max_retries + 1) | stop_before_delay(self._deadline_s),
            wait=self._wait_s,
            reraise=True,
        )

    def _wait_s(self, state: RetryCallState) -> float:
        """A random pause, after what the service asked for."""
        error = state.outcome.exception() if state.outcome is not None else None
        asked_s = error.retry_after_s if isinstance(error, RetrievalUnavailableError) else None
        return self._pause(state) + (asked_s or 0.0)


class HttpTransport:
    """Speaks Search-R1's `POST /retrieve`; can be pickled until its first use."""

    def __init__(self, url: str, token: str | None = None) -> None:
        """Talks to the service at `url`, e.g. `http://127.0.0.1:8000`.

        Raises:
            InputError: `url` is no HTTP address.
        """
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise InputError(f"retrieval url '{url}' is no address: {error}") from error
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise InputError(f"retrieval url '{url}' must look like http://127.0.0.1:8000")
        self._url = url.rstrip("/")
        self._token = token
        self._http: httpx.AsyncClient | None = None

    async def search(
        self, queries: Sequence[str], top_k: int, corpus: str | None, within_s: float
    ) -> list[Passages]:
        """One attempt over HTTP."""
        body = RetrieveRequest(
            queries=list(queries),
            topk=top_k,
            return_scores=True,
            corpus=corpus,
            deadline_s=min(within_s, MAX_DEADLINE_S),
        )
        try:
            response = await self._client().post(
                "/retrieve",
                content=body.model_dump_json(exclude_none=True),
                headers={"Content-Type": "application/json"},
            )
        except httpx.RequestError as error:
            raise RetrievalUnavailableError(f"{self._url} does not answer: {error!r}") from error
        if response.is_error:
            raise _failure(response, self._url)
        try:
            result = ScoredResponse.model_validate_json(response.content).result
        except ValidationError as error:
            raise RetrievalError(f"{self._url} sent no Search-R1 response: {error}") from error
        if len(result) != len(queries):
            raise RetrievalError(
                f"{self._url} sent {len(result)} results for {len(queries)} queries"
            )
        return [tuple(map(to_passage, documents)) for documents in result]

    async def close(self) -> None:
        """Closes the connections."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    def _client(self) -> httpx.AsyncClient:
        # Made late, as neither connections nor their event loop can be pickled.
        if self._http is None:
            self._http = many_connections(
                base_url=self._url,
                headers={b"Authorization": f"Bearer {self._token}".encode()} if self._token else {},
                # How long an answer may take is the deadline's business.
                timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
            )
        return self._http


class Service(Protocol):
    """The part of `RetrievalService` that a transport needs."""

    async def search(
        self,
        queries: Sequence[str],
        top_k: int,
        corpus: str | None = None,
        within_s: float | None = None,
    ) -> list[Passages]:
        """One result per query, in order."""


@dataclass(frozen=True, slots=True)
class LocalTransport:
    """Asks a service of the same event loop, which it does not own: others may be using it."""

    service: Service

    async def search(
        self, queries: Sequence[str], top_k: int, corpus: str | None, within_s: float
    ) -> list[Passages]:
        """One attempt in this process."""
        return await self.service.search(queries, top_k, corpus, within_s)

    async def close(self) -> None:
        """Leaves the service open, since others may use it."""


def _failure(response: httpx.Response, url: str) -> RetrievalError:
    message = f"{url} answered {response.status_code}: {response.text[:300]}"
    if response.status_code == OVERLOADED:
        return RetrievalOverloadedError(message, _retry_after_s(response))
    if response.status_code not in PASSING_STATUSES:
        return RetrievalError(message)
    failure = RetrievalUnavailableError(message)
    failure.retry_after_s = _retry_after_s(response)
    return failure


def _retry_after_s(response: httpx.Response) -> float | None:
    """The seconds that the header names; a date, which servers rarely send, is not read."""
    value = response.headers.get("Retry-After", "").strip()
    return float(value) if value.isascii() and value.isdigit() and len(value) < 10 else None

"""JSON over HTTP with bounds on everything: tries, seconds, bytes, requests in flight."""

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import httpx
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from ur2.endpoints.breaker import Breaker
from ur2.endpoints.connections import many_connections
from ur2.endpoints.options import ServiceAccessOptions
from ur2.errors import ComponentError, InputError

T = TypeVar("T")

PASSING_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""HTTP statuses after which another try may succeed."""
MAX_BACKOFF_S = 8.0
CONNECT_TIMEOUT_S = 10.0
MAX_REPLY_BYTES = 32 * 2**20
MIN_FAILURES = 5
PAUSE_S = 30.0


class EndpointError(ComponentError):
    """A service gave no usable reply; its message never belongs into a model's context."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status, where that is what was wrong."""


class PassingError(EndpointError):
    """No usable reply this time; another try may bring one."""

    def __init__(self, message: str, *, status: int | None = None, after_s: float = 0.0) -> None:
        super().__init__(message, status=status)
        self.after_s = after_s
        """Seconds that the service asks to be left alone for."""


class JsonClient:
    """Asks one service; light and picklable until its first request.

    After as many failures in a row as requests may run at once (`MIN_FAILURES` at least) requests
    fail without being sent, but for one every `PAUSE_S`.
    """

    def __init__(
        self,
        options: ServiceAccessOptions,
        *,
        where: str,
        key_header: str | None = None,
        backoff_s: float = 0.5,
    ) -> None:
        """Takes what a request needs.

        Args:
            options: the service and the bounds.
            where: the key of `options` in the config, for messages.
            key_header: carries the key; by default it is a bearer token.
            backoff_s: scale of the random pauses between tries, doubled after each.

        Raises:
            InputError: the address is not one of HTTP.
        """
        check_url(options.url, where=where)
        self._options = options
        self._where = where
        self._key_header = key_header
        self._backoff_s = backoff_s
        self._http: httpx.AsyncClient | None = None
        self._places: asyncio.Semaphore
        self._breaker = Breaker(max(options.max_concurrency, MIN_FAILURES), PAUSE_S)
        self._last_failure = ""

    async def request(
        self,
        method: str,
        path: str,
        read: Callable[[Any], T],
        *,
        params: Mapping[str, str | int] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> T:
        """Sends a request and reads the reply's JSON with `read`.

        Args:
            method: of HTTP.
            path: below the service's address; empty for the address itself.
            read: raises a PassingError where the reply is not what was asked for.
            params: of the query string.
            body: sent as JSON.

        Raises:
            EndpointError: no usable reply within the tries and the deadline.
        """
        if self._options.url is None:
            raise EndpointError(f"no endpoint is configured ({self._where}.url)")
        http = self._client()
        request = http.build_request(method, self._address(path), params=params, json=body)
        async with self._places:
            if not self._breaker.admits():
                raise EndpointError(f"not asked, after failures in a row: {self._last_failure}")
            try:
                async with asyncio.timeout(self._options.deadline_s):
                    value: T = await self._tries()(self._try, http, request, read)
            except TimeoutError as error:
                raise self._failed(f"no reply within {self._options.deadline_s:g} s") from error
            except PassingError as error:
                tries = f"{error} ({self._options.max_tries} tries)"
                raise self._failed(tries, status=error.status) from error
            except EndpointError as error:
                raise self._failed(str(error), status=error.status) from error
            self._breaker.succeeded()
            return value

    async def close(self) -> None:
        """Lets go of the connections; a later request opens others."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    def _failed(self, message: str, *, status: int | None = None) -> EndpointError:
        self._breaker.failed()
        self._last_failure = message
        return EndpointError(message, status=status)

    async def _try(
        self, http: httpx.AsyncClient, request: httpx.Request, read: Callable[[Any], T]
    ) -> T:
        timeout_s = self._options.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return read(await self._reply(http, request))
        except TimeoutError as error:
            raise PassingError(
                f"{request.url.host} gave no reply within {timeout_s:g} s"
            ) from error
        except httpx.RequestError as error:
            raise PassingError(f"{request.url.host}: {error!r}") from error

    async def _reply(self, http: httpx.AsyncClient, request: httpx.Request) -> Any:
        host = request.url.host
        response = await http.send(request, stream=True)
        try:
            content = bytearray()
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > MAX_REPLY_BYTES:
                    raise EndpointError(f"{host} sent more than {MAX_REPLY_BYTES} bytes")
        finally:
            await response.aclose()
        shown = content[:300].decode("utf-8", "replace")
        if response.is_error or response.is_redirect:
            status = response.status_code
            failure = f"{host}: HTTP {status}: {shown}"
            if status in PASSING_STATUSES:
                raise PassingError(failure, status=status, after_s=_retry_after(response))
            raise EndpointError(failure, status=status)
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise PassingError(f"{host} sent no JSON: {shown}") from error

    def _client(self) -> httpx.AsyncClient:
        # Made late, as neither connections nor their event loop can be pickled, nor should a key.
        if self._http is None:
            self._places = asyncio.Semaphore(self._options.max_concurrency)
            self._http = many_connections(
                headers=self._key(),
                timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
            )
        return self._http

    def _key(self) -> dict[bytes, bytes]:
        key = os.environ.get(self._options.api_key_env, "").strip()
        if not key:
            return {}
        header = self._key_header or "Authorization"
        value = key if self._key_header else f"Bearer {key}"
        # As bytes, as httpx would take no letters but those of ASCII.
        return {header.encode(): value.encode(errors="surrogateescape")}

    def _address(self, path: str) -> str:
        base = str(self._options.url).rstrip("/")
        return f"{base}/{path}" if path else base

    def _tries(self) -> AsyncRetrying:
        backoff = wait_random_exponential(multiplier=self._backoff_s, max=MAX_BACKOFF_S)

        def wait_s(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            return max(backoff(state), error.after_s if isinstance(error, PassingError) else 0.0)

        return AsyncRetrying(
            stop=stop_after_attempt(self._options.max_tries),
            wait=wait_s,
            retry=retry_if_exception_type(PassingError),
            reraise=True,
        )


def check_url(url: str | None, *, where: str) -> None:
    """Raises an InputError for an address that is not one of HTTP."""
    if url is None:
        return
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InputError(f"{where}.url: '{url}' is no address; it looks like http://127.0.0.1:8000")


def _retry_after(response: httpx.Response) -> float:
    """The header's seconds; 0 where it has none, or a date."""
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else 0.0

"""One OpenAI-compatible endpoint: bounded retries, limited requests in flight, typed failures."""

import asyncio
import os
from collections.abc import Mapping
from typing import Any

import httpx
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from ur2.errors import ComponentError, InputError
from ur2.rollout.options import EngineOptions

PASSING_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""HTTP statuses after which another attempt may succeed."""
MAX_BACKOFF_S = 30.0
CONNECT_TIMEOUT_S = 10.0


class PassingError(Exception):
    """No answer this time; another attempt may succeed."""


class Endpoint:
    """The endpoint that `options.remote` names; light until `open`."""

    def __init__(self, options: EngineOptions, model: str, *, backoff_s: float = 1.0) -> None:
        """Takes what `open` needs.

        Args:
            options: the endpoint, and `max_num_seqs` as its limit of requests in flight.
            model: the served name, where the options give none.
            backoff_s: scale of the random pauses between attempts, doubled after each.

        Raises:
            InputError: the endpoint has no address.
        """
        self._remote = options.remote
        self._url = endpoint_url(options)
        self._max_in_flight = options.max_num_seqs
        self._backoff_s = backoff_s
        self.model = options.remote.model or model
        self._http: httpx.AsyncClient | None = None
        self._places: asyncio.Semaphore

    async def open(self) -> Mapping[str, Any]:
        """Connects, and looks for the model; returns what the endpoint tells of it, if anything.

        Raises:
            InputError: the key's variable is not set, the key is refused, or the endpoint lists
                models and this is not one of them.
            ComponentError: it does not answer.
        """
        key = api_key(self._remote.key_variable)
        self._places = asyncio.Semaphore(self._max_in_flight)
        self._http = httpx.AsyncClient(
            base_url=self._url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(self._remote.timeout_s, connect=CONNECT_TIMEOUT_S),
            limits=httpx.Limits(max_connections=self._max_in_flight),
        )
        listed = await self.request("GET", "models")
        models = {str(model.get("id")): model for model in listed.get("data", [])}
        if models and self.model not in models:
            shown = ", ".join(sorted(models)[:20])
            raise InputError(
                f"{self._url} does not serve '{self.model}' but: {shown}; "
                "set rollout.engine.remote.model"
            )
        told: Mapping[str, Any] = models.get(self.model, {})
        return told

    async def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """One JSON answer.

        Raises:
            InputError: the key is refused.
            ComponentError: no good answer after all attempts.
        """
        try:
            async with self._places:
                return await self._attempts()(self._attempt, method, path, body)
        except PassingError as error:
            raise ComponentError(
                f"{self._url}: no answer after {self._remote.max_retries + 1} attempts: {error}"
            ) from error

    async def close(self) -> None:
        """Lets go of the connections; safe to call twice."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def _attempt(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        if self._http is None:
            raise ComponentError(f"the connection to {self._url} is closed")
        try:
            response = await self._http.request(method, path, json=body)
        except httpx.TransportError as error:
            raise PassingError(repr(error)) from error
        if response.status_code in PASSING_STATUSES:
            raise PassingError(f"HTTP {response.status_code}: {response.text[:300]}")
        if response.status_code in (401, 403):
            raise InputError(
                f"{self._url} refuses the API key (HTTP {response.status_code}); "
                "rollout.engine.remote.key_variable names the variable that holds it"
            )
        if response.is_error:
            raise ComponentError(
                f"{self._url}/{path}: HTTP {response.status_code}: {response.text[:300]}"
            )
        try:
            answer: dict[str, Any] = response.json()
        except ValueError as error:
            raise PassingError(f"no JSON: {response.text[:300]}") from error
        return answer

    def _attempts(self) -> AsyncRetrying:
        return AsyncRetrying(
            retry=retry_if_exception_type(PassingError),
            stop=stop_after_attempt(self._remote.max_retries + 1),
            wait=wait_random_exponential(multiplier=self._backoff_s, max=MAX_BACKOFF_S),
            reraise=True,
        )


def endpoint_url(options: EngineOptions) -> str:
    """The endpoint's base address.

    Raises:
        InputError: there is none, or it is no HTTP address.
    """
    url = options.remote.url
    if url is None:
        raise InputError("rollout.engine.remote.url is required with rollout.engine.name=remote")
    if not url.startswith(("http://", "https://")):
        raise InputError(
            f"rollout.engine.remote.url '{url}' must look like http://127.0.0.1:8000/v1"
        )
    return url.rstrip("/")


def api_key(variable: str | None) -> str | None:
    """The key in an environment variable, which is read here and kept nowhere else.

    Raises:
        InputError: the variable is not set.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "")
    if not key:
        raise InputError(
            f"rollout.engine.remote.key_variable: the environment variable {variable} is not set"
        )
    return key

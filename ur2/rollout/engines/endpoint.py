"""One OpenAI-compatible endpoint: bounded retries, limited requests in flight, typed failures."""

import os
from collections.abc import Mapping
from typing import Any

from ur2.endpoints.http import MAX_BACKOFF_S, EndpointError, JsonClient, PassingError
from ur2.endpoints.options import ServiceAccessOptions
from ur2.errors import InputError
from ur2.rollout.options import EngineOptions

WHERE = "rollout.engine.remote"
NOT_FOUND = 404


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
        self._url = endpoint_url(options)
        self._key_variable = options.remote.key_variable
        self.model = options.remote.model or model
        num_tries = options.remote.max_retries + 1
        access = ServiceAccessOptions(
            url=self._url,
            api_key_env=options.remote.key_variable or "",
            max_concurrency=options.max_num_seqs,
            timeout_s=options.remote.timeout_s,
            max_tries=num_tries,
            deadline_s=num_tries * (options.remote.timeout_s + MAX_BACKOFF_S),
        )
        self._client = JsonClient(access, where=WHERE, backoff_s=backoff_s)

    async def open(self) -> Mapping[str, Any]:
        """Connects, and looks for the model; returns what the endpoint tells of it, if anything.

        Raises:
            InputError: the key's variable is not set, the key is refused, the address is not that
                of an endpoint, or it lists models and this is not one of them.
            ComponentError: it does not answer.
        """
        api_key(self._key_variable)
        try:
            listed = (await self.request("GET", "models")).get("data")
        except EndpointError as error:
            if error.status == NOT_FOUND:
                raise InputError(
                    f"{self._url} has no /models (HTTP 404): is rollout.engine.remote.url the "
                    "endpoint's base address? It often ends in /v1"
                ) from error
            raise
        entries = listed if isinstance(listed, list) else []
        models = {str(entry.get("id")): entry for entry in entries if isinstance(entry, dict)}
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
            return await self._client.request(method, path, _answer, body=body)
        except EndpointError as error:
            if error.status in (401, 403):
                raise InputError(
                    f"{self._url} refuses the API key ({error}); "
                    "rollout.engine.remote.key_variable names the variable that holds it"
                ) from error
            raise

    async def close(self) -> None:
        """Lets go of the connections; safe to call twice."""
        await self._client.close()


def _answer(reply: Any) -> dict[str, Any]:
    if not isinstance(reply, dict):
        raise PassingError("the reply is no JSON object")
    return reply


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

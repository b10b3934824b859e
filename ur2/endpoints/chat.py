"""One OpenAI-compatible chat endpoint: replies that read as what was asked for, and their cost.

ask -> cache? -> JsonClient (places, tries, deadline) -> read -> cache
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from ur2.endpoints.cache import DiskCache, content_key
from ur2.endpoints.http import EndpointError, JsonClient, PassingError
from ur2.endpoints.options import EndpointOptions

T = TypeVar("T")

_SPECIAL = re.compile(r"<(?=[|\uff5c]|/?s>|(?:start|end)_of_turn>)|\[(?=/?INST\])")
"""The first character of what chat templates use as structure."""


@dataclass(slots=True)
class Usage:
    """The tokens and cost of a reply, tries that failed included."""

    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0
    cost_usd: float = 0.0

    @property
    def num_tokens(self) -> int:
        """Read and written."""
        return self.num_prompt_tokens + self.num_completion_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatReply(Generic[T]):
    """A reply as read, or why there is none."""

    value: T | None
    failure: str = ""
    """Why `value` is None; for logs, never for a model's context."""
    usage: Usage = field(default_factory=Usage)
    """Nothing for a reply that was kept."""


class ChatClient:
    """Asks one model; light and picklable until its first question."""

    def __init__(self, options: EndpointOptions, *, where: str) -> None:
        """Opens nothing.

        Args:
            options: the endpoint, its bounds and prices.
            where: the key of `options` in the config, for messages.

        Raises:
            InputError: the address is not one of HTTP.
        """
        self._options = options
        self._endpoint = JsonClient(options, where=where)
        self._cache = DiskCache(options.cache, where=f"{where}.cache")

    async def ask(
        self,
        system: str,
        user: str,
        read: Callable[[str], T | None],
        *,
        temperature: float,
        max_tokens: int | None = None,
    ) -> ChatReply[T]:
        """One reply, from the cache where the same was asked before.

        Args:
            system: what the model is to do.
            user: the data it is to do it with; see `quoted`.
            read: reads the reply's text; None where it is not what was asked for, which counts as a
                failure that may pass.
            temperature: of sampling.
            max_tokens: the longest reply; None leaves it to the endpoint.

        Raises:
            InputError: the cache cannot be used.
        """
        body = {
            "model": self._options.model,
            "temperature": temperature,
            "messages": [
                {"role": "system", "content": system},
                {"role": "user", "content": user},
            ],
            **({} if max_tokens is None else {"max_tokens": max_tokens}),
        }
        key = content_key(body)
        kept = await self._cache.get(key)
        if isinstance(kept, str) and (value := read(kept)) is not None:
            return ChatReply(value=value)
        usage = Usage()

        def read_reply(reply: Any) -> tuple[str, T]:
            self._count(reply, usage)
            text = _content(reply)
            if (value := read(text)) is None:
                raise PassingError(f"the reply {text[:80]!r} is not what was asked for")
            return text, value

        try:
            text, value = await self._endpoint.request(
                "POST", "chat/completions", read_reply, body=body
            )
        except EndpointError as error:
            return ChatReply(value=None, failure=str(error), usage=usage)
        await self._cache.put(key, text)
        return ChatReply(value=value, usage=usage)

    def open(self) -> None:
        """Opens the cache.

        Raises:
            InputError: it cannot be used.
        """
        self._cache.open()

    async def close(self) -> None:
        """Lets go of connections and files; a later question opens others."""
        await self._endpoint.close()
        self._cache.close()

    async def __aenter__(self) -> Self:
        self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def _count(self, reply: Any, usage: Usage) -> None:
        counts = reply.get("usage") if isinstance(reply, dict) else None
        if not isinstance(counts, dict):
            return
        read, written = _number(counts, "prompt_tokens"), _number(counts, "completion_tokens")
        usage.num_prompt_tokens += read
        usage.num_completion_tokens += written
        usage.cost_usd += (
            read * self._options.usd_per_million_prompt_tokens
            + written * self._options.usd_per_million_completion_tokens
        ) / 1e6


def quoted(data: Any) -> str:
    """`data` as JSON in which no text can end a turn of the chat: special tokens are escaped."""
    text = json.dumps(data, ensure_ascii=False)
    return printable(_SPECIAL.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def json_object(reply: str) -> dict[str, Any] | None:
    """The one JSON object that a reply is, apart from a thought before it and a code fence."""
    text = reply.rpartition("</think>")[2].strip()
    if text.startswith("```") and text.endswith("```"):
        text = text[3:-3].removeprefix("json")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def printable(text: str) -> str:
    """`text` without the halves of surrogate pairs, which JSON can hold and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


def _content(reply: Any) -> str:
    try:
        content = reply["choices"][0]["message"]["content"]
    except (LookupError, TypeError) as error:
        raise PassingError("the endpoint gave a reply without content") from error
    if not isinstance(content, str):
        raise PassingError("the endpoint gave a reply without text")
    return printable(content)


def _number(counts: dict[str, Any], name: str) -> int:
    value = counts.get(name)
    return value if isinstance(value, int) and 0 <= value < 2**31 else 0

"""Web search as a retriever: a provider's results as passages, their addresses as ids."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from ur2.endpoints.cache import DiskCache, content_key
from ur2.endpoints.chat import printable
from ur2.endpoints.http import EndpointError, JsonClient, PassingError
from ur2.retrieval.web.options import ProviderName, WebSearchOptions
from ur2.types import Passage, RetrievalFailed

WHERE = "retrieval.web"
MAX_URL_CHARS = 2048
MAX_TEXT_CHARS = 4000
DAY_S = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchProvider:
    """The dialect of one provider."""

    method: Literal["GET", "POST"]
    """`POST` sends what is asked as JSON, `GET` in the query string."""
    key_header: str | None
    """The header that carries the key; None: it is a bearer token."""
    ask: Callable[[str, int], dict[str, str | int]]
    """The body to send for a query and a number of results."""
    results: tuple[str, ...]
    """The keys that lead to the list of results."""
    sign: str
    """A key that every good reply has, also one without results."""
    title: str
    url: str
    text: str
    trouble: Callable[[Mapping[str, Any]], str] = lambda reply: ""
    """Why a reply without results is no answer, although its status says so; empty where it is."""


class WebRetriever:
    """A `Retriever` over a provider; light and picklable until its first search."""

    def __init__(self, options: WebSearchOptions) -> None:
        """Opens nothing.

        Raises:
            InputError: the address is not one of HTTP.
        """
        self._options = options
        key_header = PROVIDERS[options.provider].key_header
        self._http = JsonClient(options, where=WHERE, key_header=key_header)
        self._cache = DiskCache(
            options.cache, where=f"{WHERE}.cache", expire_s=options.cache_days * DAY_S
        )

    async def search(
        self, queries: Sequence[str], top_k: int, corpus: str | None = None
    ) -> list[tuple[Passage, ...] | RetrievalFailed]:
        """One outcome per query, in order; there is but one web, whatever `corpus` says."""
        return await asyncio.gather(*(self._search(query, top_k) for query in queries))

    async def close(self) -> None:
        """Lets go of connections and files; a later search opens others."""
        await self._http.close()
        self._cache.close()

    async def _search(self, query: str, top_k: int) -> tuple[Passage, ...] | RetrievalFailed:
        provider = PROVIDERS[self._options.provider]
        words = printable(query[: self._options.max_query_chars]).strip()
        if not words:  # which no provider answers, and which is not its failure
            return ()
        asked = provider.ask(words, top_k)
        key = content_key([self._options.url, asked])
        kept = await self._cache.get(key)
        if kept is not None:
            with suppress(PassingError):  # what cannot be read any more is asked for again
                return read_results(kept, provider)[:top_k]
        sent = {"body": asked} if provider.method == "POST" else {"params": asked}
        try:
            reply = await self._http.request(
                provider.method, "", lambda reply: _checked(reply, provider), **sent
            )
        except EndpointError as error:
            return RetrievalFailed(reason=str(error))
        await self._cache.put(key, reply)
        return read_results(reply, provider)[:top_k]


def read_results(reply: Any, provider: SearchProvider) -> tuple[Passage, ...]:
    """The results of a reply, best first, each address once; unreadable ones are left out.

    Raises:
        PassingError: the reply is not one of this provider, or none of its results can be read.
    """
    if not isinstance(reply, dict) or provider.sign not in reply:
        raise PassingError(f"the provider sent no reply with '{provider.sign}'")
    found = _results(reply, provider)
    if not found and (trouble := provider.trouble(reply)):
        raise PassingError(f"the provider found nothing, since {trouble}")
    return found


def _results(reply: Mapping[str, Any], provider: SearchProvider) -> tuple[Passage, ...]:
    results: Any = reply
    for key in provider.results:
        if isinstance(results, dict) and key not in results:
            return ()
        results = results[key] if isinstance(results, dict) else None
    if not isinstance(results, list):
        raise PassingError(f"the provider's '{'.'.join(provider.results)}' is no list")
    passages: dict[str, Passage] = {}
    for result in results:
        passage = _passage(result, provider)
        if passage is not None:
            passages.setdefault(passage.id, passage)
    if results and not passages:
        raise PassingError(f"the provider sent {len(results)} results that cannot be read")
    return tuple(passages.values())


def _checked(reply: Any, provider: SearchProvider) -> Any:
    read_results(reply, provider)
    return reply


def _passage(result: Any, provider: SearchProvider) -> Passage | None:
    if not isinstance(result, dict):
        return None
    url, title, text = (
        printable(value) if isinstance(value := result.get(key), str) else ""
        for key in (provider.url, provider.title, provider.text)
    )
    if not url.startswith(("http://", "https://")) or len(url) > MAX_URL_CHARS:
        return None
    return Passage(id=url, title=title[:MAX_TEXT_CHARS], text=text[:MAX_TEXT_CHARS])


def _blocked_engines(reply: Mapping[str, Any]) -> str:
    """SearxNG asks other engines, and says which of them did not answer."""
    engines = reply.get("unresponsive_engines")
    if not isinstance(engines, list) or not engines:
        return ""
    names = (str(e[0]) if isinstance(e, list | tuple) and e else str(e) for e in engines)
    return f"its engines do not answer: {', '.join(names)}"


def _errors(reply: Mapping[str, Any]) -> str:
    """An error that came with a good status."""
    error = reply.get("errors") or reply.get("error") or reply.get("message")
    if reply.get("_type") == "ErrorResponse" or error:
        return f"it reports an error: {str(error)[:200]}"
    return ""


PROVIDERS: Mapping[ProviderName, SearchProvider] = {
    "serper": SearchProvider(
        method="POST",
        key_header="X-API-KEY",
        ask=lambda query, num: {"q": query, "num": num},
        results=("organic",),
        sign="searchParameters",
        title="title",
        url="link",
        text="snippet",
        trouble=_errors,
    ),
    "bing": SearchProvider(
        method="GET",
        key_header="Ocp-Apim-Subscription-Key",
        ask=lambda query, num: {"q": query, "count": num},
        results=("webPages", "value"),
        sign="_type",
        title="name",
        url="url",
        text="snippet",
        trouble=_errors,
    ),
    "searxng": SearchProvider(
        method="GET",
        key_header=None,
        ask=lambda query, num: {"q": query, "format": "json"},
        results=("results",),
        sign="results",
        title="title",
        url="url",
        text="content",
        trouble=lambda reply: _blocked_engines(reply) or _errors(reply),
    ),
}

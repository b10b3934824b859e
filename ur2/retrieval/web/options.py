"""Options of web search and of reading web pages."""

from typing import Annotated, Literal

from pydantic import Field

from ur2.endpoints.options import Count, Seconds, ServiceAccessOptions
from ur2.options import Options

ProviderName = Literal["serper", "bing", "searxng"]


class WebSearchOptions(ServiceAccessOptions):
    """A provider of web search."""

    url: str
    """Where it takes queries, e.g. `https://google.serper.dev/search`, or `/search` of a SearxNG
    instance that offers JSON."""
    provider: ProviderName = "serper"
    """The provider whose dialect it speaks."""
    api_key_env: str = "WEB_SEARCH_API_KEY"
    """The environment variable that holds the key, read where the asking is done; unset: no key is
    sent."""
    deadline_s: Seconds = 30.0
    """Seconds for all tries of a query."""
    max_query_chars: Count = 1000
    """Characters of a query that are sent; providers refuse longer ones than theirs."""
    cache_days: Annotated[float, Field(gt=0)] = 7.0
    """How long a kept answer counts."""


class BrowseOptions(Options):
    """How pages are fetched and read."""

    timeout_s: Seconds = 20.0
    """Seconds for a page, redirects and reading its text included."""
    max_bytes: Count = 2**20
    """The largest page."""
    max_redirects: Annotated[int, Field(ge=0)] = 5
    """Redirects that are followed, each checked as the first address was."""
    page_chars: Count = 8000
    """Characters of text that are shown at once; longer texts have several parts."""
    max_concurrency: Count = 8
    """Pages fetched at once."""
    cache: str | None = None
    """A folder that keeps the texts of pages; None keeps none."""
    cache_days: Annotated[float, Field(gt=0)] = 7.0
    """How long a kept text counts."""
    allow_private_hosts: tuple[str, ...] = ()
    """Hosts, as written in addresses, that may be fetched although they are not public."""

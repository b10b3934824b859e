"""Reading web pages that a search gave: their text, in parts, kept for some days."""

import asyncio
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import trafilatura
from trafilatura.utils import decode_file

from ur2.endpoints.cache import DiskCache
from ur2.endpoints.chat import printable
from ur2.retrieval.web.fetch import Fetched, FetchError, Resolver, fetch, resolve
from ur2.retrieval.web.options import BrowseOptions
from ur2.retrieval.web.search import DAY_S
from ur2.types import RetrievalFailed, ToolUse

META_BYTES = 1024
"""A page tells its charset within so many bytes (HTML standard, 13.2.3.2)."""
_META = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([A-Za-z0-9_-]+)", re.IGNORECASE)
_MARKS = {BOM_UTF8: "utf-8", BOM_UTF16_LE: "utf-16-le", BOM_UTF16_BE: "utf-16-be"}
_XML_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")
"""Its encoding has been applied, and lxml takes no text that names one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PagePart:
    """A part of a page's text."""

    url: str
    title: str
    text: str
    number: int
    """From 1."""
    num_parts: int


class Browser:
    """Reads pages for many episodes at once."""

    def __init__(self, options: BrowseOptions, *, resolver: Resolver = resolve) -> None:
        """Fetches nothing.

        Args:
            options: the bounds.
            resolver: finds the addresses of hosts.
        """
        self._options = options
        self._resolver = resolver
        self._places = asyncio.Semaphore(options.max_concurrency)
        self._cache = DiskCache(
            options.cache, where="browse.cache", expire_s=options.cache_days * DAY_S
        )

    async def read(
        self, url: str, searches: Iterable[ToolUse], *, number: int = 1
    ) -> PagePart | RetrievalFailed:
        """One part of the text of a page.

        Args:
            url: as a search of the same episode gave it; others are refused.
            searches: those that the episode made.
            number: which part, from 1.
        """
        if not any(url in search.ids for search in searches):
            return RetrievalFailed(reason="no search of this episode gave that address")
        try:
            title, text = await self._text(url)
        except FetchError as error:
            return RetrievalFailed(reason=str(error))
        size = self._options.page_chars
        num_parts = -(-len(text) // size)
        if not 1 <= number <= num_parts:
            return RetrievalFailed(reason=f"the page has parts 1 to {num_parts}")
        part = text[(number - 1) * size : number * size]
        return PagePart(url=url, title=title, text=part, number=number, num_parts=num_parts)

    def close(self) -> None:
        """Lets go of the files; a later use opens them again."""
        self._cache.close()

    async def _text(self, url: str) -> tuple[str, str]:
        """Title and text; the latter is not empty.

        Raises:
            FetchError: there is no text to be had, or not in time.
        """
        kept = await self._cache.get(url)
        if kept is not None:
            return kept["title"], kept["text"]
        try:
            async with self._places, asyncio.timeout(self._options.timeout_s):
                page = await fetch(url, self._options, resolver=self._resolver)
                title, text = await self._read(page)
        except TimeoutError as error:
            raise FetchError(f"no page within {self._options.timeout_s:g} s") from error
        if not text:
            raise FetchError("the page has no text")
        await self._cache.put(url, {"title": title, "text": text})
        return title, text

    @staticmethod
    async def _read(page: Fetched) -> tuple[str, str]:
        try:
            return await asyncio.to_thread(extract, page)
        except Exception as error:  # whatever hostile pages make a parser raise
            raise FetchError(f"its text cannot be read: {error!r}") from error


def extract(page: Fetched) -> tuple[str, str]:
    """Title and main text of a page; empty where there is none."""
    if page.content_type == "text/plain":
        return "", _decode(page).strip()
    tree = trafilatura.load_html(_XML_DECLARATION.sub("", _decode(page), count=1))
    if tree is None:
        return "", ""
    title = tree.findtext(".//title") or ""  # the library's own metadata trip over broken pages
    text = trafilatura.extract(tree, url=page.url, include_comments=False) or ""
    return printable(title).strip(), printable(text).strip()


def _decode(page: Fetched) -> str:
    """The text in the charset of the HTTP header, of the mark at its begin, or of the page itself.

    Where none of them is told, or none is known, it is guessed.
    """
    marked = next((name for mark, name in _MARKS.items() if page.content.startswith(mark)), None)
    told = _META.search(page.content[:META_BYTES])
    for charset in (page.charset, marked, told and told[1].decode("ascii")):
        with suppress(LookupError):  # a charset that nobody knows
            if charset:
                return page.content.decode(charset, errors="replace").removeprefix("\ufeff")
    return str(decode_file(page.content))

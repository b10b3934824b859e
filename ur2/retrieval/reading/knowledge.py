"""Answers to look-ups: passages from the corpus of the task, or what a summariser makes of them.

Lookup -> retriever (corpus by task) -> summariser? -> Finding
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ur2.retrieval.client.retriever import Retriever
from ur2.retrieval.reading.summarise import Summariser
from ur2.types import Finding, Lookup, RetrievalFailed, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedKnowledge:
    """One retriever, the corpus of each task, and maybe a summariser."""

    retriever: Retriever
    top_k: int
    """Passages per search."""
    routes: Mapping[Task, str] = field(default_factory=dict)
    """The corpus of each task; other tasks search the retriever's default one."""
    summariser: Summariser | None = None

    async def look_up(self, lookup: Lookup) -> Finding:
        """Searches the corpus of the task; nothing is summarised where nothing was found."""
        corpus = self.routes.get(lookup.task)
        (found,) = await self.retriever.search([lookup.query], self.top_k, corpus)
        if self.summariser is None or not found or isinstance(found, RetrievalFailed):
            return Finding(outcome=found)
        return await self.summariser.summarise(lookup, found)

    async def close(self) -> None:
        """Lets go of the summariser's connections; the retriever belongs to whoever made it."""
        if self.summariser is not None:
            await self.summariser.close()

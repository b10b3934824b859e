"""What an episode asks: passages, or what a summariser makes of them.

Lookup -> retriever -> summariser? -> Finding
"""

from dataclasses import dataclass

from ur2.retrieval.client import Retriever
from ur2.retrieval.knowledge_options import SummaryFallback
from ur2.retrieval.summarise import NoSummary, Summariser
from ur2.types import Finding, Lookup, RetrievalFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """One retriever, and maybe a summariser."""

    retriever: Retriever
    top_k: int
    """Passages per search."""
    summariser: Summariser | None = None
    fallback: SummaryFallback = "passages"
    """What stands in for a summary that failed."""

    async def look_up(self, lookup: Lookup) -> Finding:
        """What is known about `lookup.query`; nothing is summarised where nothing was found."""
        (found,) = await self.retriever.search([lookup.query], self.top_k)
        if self.summariser is None or not found or isinstance(found, RetrievalFailed):
            return Finding(outcome=found)
        made, summary = await self.summariser.summarise(lookup, found)
        if not isinstance(made, NoSummary):
            return Finding(outcome=made, summary=summary)
        if self.fallback == "passages":
            return Finding(outcome=found, summary=summary)
        return Finding(outcome=RetrievalFailed(reason=made.reason), summary=summary)

    async def close(self) -> None:
        """Lets go of the summariser's connections; the retriever belongs to whoever made it."""
        if self.summariser is not None:
            await self.summariser.close()

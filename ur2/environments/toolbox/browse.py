"""Reading pages that a search of the episode found, as a tool."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import JsonValue

from ur2.environments.base import Services, Turn
from ur2.environments.toolbox.base import Said, object_schema, used
from ur2.prompts.tool_calls import ToolSchema
from ur2.retrieval.web.options import BrowseOptions
from ur2.types import SEARCH, Question, RetrievalFailed, ToolUse

if TYPE_CHECKING:
    from ur2.retrieval.web.browse import Browser


class BrowseTool:
    """Reads a part of a page."""

    schema = ToolSchema(
        name="browse",
        description="Reads a web page whose address a search has given, part by part.",
        parameters=object_schema(
            {
                "url": {"type": "string", "description": "The address, as a search gave it."},
                "part": {"type": "integer", "minimum": 1, "description": "Which part, from 1."},
            },
            ["url"],
        ),
    )

    def __init__(self, browser: "Browser", searches: Sequence[ToolUse] = ()) -> None:
        """Takes the reader of pages, and the searches whose pages may be read."""
        self._browser = browser
        self._searches = searches

    def for_turn(self, turn: Turn, question: Question, services: Services) -> "BrowseTool":
        """The same for the pages that an episode found so far."""
        searches = [event for event in turn.events if event.tool == SEARCH]
        return BrowseTool(self._browser, searches)

    async def use(self, arguments: Mapping[str, JsonValue], transcript: str) -> ToolUse:
        """Reads; a page that cannot be had is `failed`, one that no search gave is `invalid`."""

        async def call() -> Said:
            url, part = str(arguments["url"]), arguments.get("part", 1)
            if not any(url in search.ids for search in self._searches):
                reason = "no search of this episode gave that address"
                return Said(text=reason, outcome="invalid")
            number = int(part) if isinstance(part, int | float) else 1
            page = await self._browser.read(url, self._searches, number=number)
            if isinstance(page, RetrievalFailed):
                return Said(text=page.reason, outcome="failed")
            title = f"{page.title}\n" if page.title else ""
            text = f"{title}Part {page.number} of {page.num_parts}\n{page.text}"
            return Said(text=text, ids=(url,))

        return await used(self.schema.name, arguments, call)


def make_browse(options: BrowseOptions) -> BrowseTool:
    """A tool that fetches nothing until its first use."""
    from ur2.retrieval.web.browse import Browser  # with what parses pages, which is heavy

    return BrowseTool(Browser(options))

"""The search of `retrieval`, as a tool."""

import time
from collections.abc import Mapping
from dataclasses import replace

from pydantic import JsonValue

from ur2.environments.base import Services, Turn
from ur2.environments.search import search_event
from ur2.environments.toolbox.base import object_schema
from ur2.prompts.tool_calls import ToolSchema
from ur2.types import SEARCH, Facts, Lookup, Question, RetrievalFailed, ToolUse, Unsearchable


class SearchTool:
    """Searches for passages, in the words of the prompt's dialect."""

    schema = ToolSchema(
        name=SEARCH,
        description="Searches a collection of documents, and returns what fits a query best.",
        parameters=object_schema(
            {"query": {"type": "string", "minLength": 1, "description": "What to search for."}},
            ["query"],
        ),
    )

    def __init__(self, question: Question | None = None, services: Services | None = None) -> None:
        """Binds it to an episode; without one it only tells what it is."""
        self._question = question
        self._services = services

    def for_turn(self, turn: Turn, question: Question, services: Services) -> "SearchTool":
        """The search of an episode."""
        return SearchTool(question, services)

    async def use(self, arguments: Mapping[str, JsonValue], transcript: str) -> ToolUse:
        """Searches; a search that failed is `failed`."""
        if self._question is None or self._services is None:
            raise RuntimeError("a search belongs to an episode: ask for_turn first")
        query = str(arguments["query"])
        lookup = Lookup(
            task=self._question.task,
            question=self._question.text,
            reasoning=transcript,
            query=query,
        )
        start_s, started = time.time(), time.perf_counter()
        finding = await self._services.knowledge.look_up(lookup)
        latency_s = time.perf_counter() - started
        event = search_event(query, finding, start_s=start_s, latency_s=latency_s)
        dialect = self._services.wording.dialect
        match finding.outcome:
            case RetrievalFailed(reason=text):
                return replace(event, facts=text)
            case Unsearchable(reply=text) | Facts(text=text):
                return replace(event, facts=dialect.wrap(text).text)
            case passages:
                return replace(event, facts=dialect.wrap(passages).text)

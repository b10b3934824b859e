"""Search with tags: reason, search, read, answer. The game of UR² and of Search-R1.

The dialect's markers and limits are its rules: a search is refused, and ends the episode, where
retrieval is off or the searches are used up, and in the last turn, in which nothing could be made
of its documents.
"""

import time
from typing import Annotated, ClassVar

from pydantic import Field

from ur2.demonstrations import DemonstratedTurn
from ur2.environments.base import Ask, End, Piece, Reply, Services, Turn
from ur2.options import Options
from ur2.prompts.dialect import Answer, Search, Stop, Wrapped
from ur2.types import (
    SEARCH,
    Assignment,
    Author,
    Facts,
    Finding,
    Lookup,
    RetrievalFailed,
    Status,
    Task,
    ToolOutcome,
    ToolUse,
    Unsearchable,
)

PositiveInt = Annotated[int, Field(ge=1)]


class SearchOptions(Options):
    """The budgets of one episode; markers and the number of searches are the prompt's."""

    max_turns: int = Field(5, ge=1)
    """Turns of the policy; the last one must answer, its searches are refused."""
    max_tokens_per_turn: int = Field(256, ge=1)
    """Tokens that the policy may sample in one turn."""
    max_tokens_per_turn_by_task: dict[Task, PositiveInt] = Field(default_factory=dict)
    """Tasks whose turns have another limit."""
    max_observation_tokens: int = Field(512, ge=1)
    """Tokens of one observation with its markers; longer documents are cut, the markers stay."""

    def turn_tokens(self, task: Task) -> int:
        """Tokens that the policy may sample in one turn of `task`."""
        return self.max_tokens_per_turn_by_task.get(task, self.max_tokens_per_turn)


class SearchEnvironment:
    """One episode."""

    Options: ClassVar = SearchOptions
    reads_cut_turns = True
    """For the answer that a turn gave before its tokens ran out."""
    is_stateless = True

    def __init__(self, assignment: Assignment, options: SearchOptions, services: Services) -> None:
        self._question = assignment.question
        self._retrieval = assignment.retrieval
        self._options = options
        self._services = services
        self._dialect = services.wording.dialect

    def opening(self) -> Ask:
        """Asks the question in the words of the prompt's config."""
        message = self._services.wording.message(self._question, self._retrieval)
        return self._ask(Piece(before=message, author=Author.PROMPT), fresh=True)

    async def react(self, turn: Turn) -> Reply:
        """Searches, or ends with the answer or without one."""
        if turn.is_cut:
            answer = self._dialect.answer(turn.text, self._question.task)
            return Reply(then=End(status=Status.TRUNCATED, answer=answer))
        match self._dialect.parse(turn.text, self._question.task):
            case Answer(text):
                return Reply(then=End(status=Status.ANSWERED, answer=text))
            case Stop():
                return Reply(then=End(status=Status.NO_ANSWER))
            case Search(query):
                refusal = self._refusal(turn.number, len(turn.events))
                if refusal is None:
                    return await self._search(query, turn)
                event = ToolUse(tool=SEARCH, arguments={"query": query}, outcome="refused")
                return Reply(then=End(status=refusal), events=(event,))

    def written(self, turn: DemonstratedTurn) -> str:
        """A demonstrated turn as the policy should write it.

        Raises:
            InputError: it would not be read back as that turn.
        """
        task = self._question.task
        return self._dialect.render_turn(
            turn.thought, search=turn.search, answer=turn.answer, task=task
        )

    def _refusal(self, number: int, num_searches: int) -> Status | None:
        """How the episode ends where turn `number` searches, after `num_searches` searches."""
        if not self._retrieval or num_searches >= self._dialect.limits.max_searches:
            return Status.NO_ANSWER
        return Status.OUT_OF_TURNS if number >= self._options.max_turns else None

    async def _search(self, query: str, turn: Turn) -> Reply:
        lookup = Lookup(
            task=self._question.task,
            question=self._question.text,
            reasoning=turn.transcript,
            query=query,
        )
        start_s, started = time.time(), time.perf_counter()
        finding = await self._services.knowledge.look_up(lookup)
        latency_s = time.perf_counter() - started
        event = search_event(query, finding, start_s=start_s, latency_s=latency_s)
        shown = self._shown(finding)
        if shown is None:
            return Reply(then=End(status=Status.TOOL_FAILED), events=(event,))
        documents = Piece(
            text=shown.text,
            before=shown.before,
            after=shown.after,
            max_tokens=self._options.max_observation_tokens,
        )
        must_answer = self._refusal(turn.number + 1, len(turn.events) + 1) is not None
        words = self._services.wording.last_turn(self._question) if must_answer else None
        hint = (Piece(before=words, author=Author.INJECTED),) if words else ()
        return Reply(then=self._ask(documents, *hint), events=(event,))

    def _shown(self, finding: Finding) -> Wrapped | None:
        """The text that the policy reads of what was found; None where the search failed."""
        match finding.outcome:
            case RetrievalFailed():
                return None
            case Unsearchable(reply=text) | Facts(text=text):
                return self._dialect.wrap(text)
            case passages:
                return self._dialect.wrap(passages)

    def _ask(self, *pieces: Piece, fresh: bool = False) -> Ask:
        return Ask(
            pieces=pieces,
            fresh=fresh,
            stop_strings=self._dialect.stop_strings,
            max_tokens=self._options.turn_tokens(self._question.task),
        )


def search_event(query: str, finding: Finding, *, start_s: float, latency_s: float) -> ToolUse:
    """The event to record of one search."""
    outcome, ids = _outcome(finding)
    return ToolUse(
        tool=SEARCH,
        arguments={"query": query},
        outcome=outcome,
        ids=ids,
        start_s=start_s,
        latency_s=latency_s,
        summary=finding.summary,
    )


def _outcome(finding: Finding) -> tuple[ToolOutcome, tuple[str, ...]]:
    match finding.outcome:
        case RetrievalFailed():
            return "failed", ()
        case Unsearchable():
            return "unsearchable", ()
        case Facts(passage_ids=ids):
            return "found", ids
        case passages:
            return "found", tuple(passage.id for passage in passages)

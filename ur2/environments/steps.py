"""R3-RAG (arXiv 2505.23794): reason and retrieve step by step, each step in a context of its own.

The history of steps stands in the user's message, with what was retrieved; a step is one turn. What
each retrieval was worth is judged on the way, and is the turn's own reward; the reward term `steps`
scales it by how the episode ended.

Departures from the published code, unless `as_published`: an answer keeps its last letter, a failed
search ends the episode as such, and a step's heading is counted in the turn alone, so that neither
a question nor a document can break the format.
"""

import time
from typing import ClassVar

from pydantic import Field

from ur2.demonstrations import DemonstratedTurn
from ur2.environments.base import Ask, End, Piece, Reply, Services, Turn
from ur2.environments.search import search_event
from ur2.options import Options
from ur2.prompts.steps import Step, heading, read_step
from ur2.retrieval.reading.relevance import JudgedStep, RelevanceOptions, make_relevance
from ur2.types import (
    SEARCH,
    Assignment,
    Author,
    Facts,
    Lookup,
    RetrievalFailed,
    Status,
    ToolUse,
)

BAD_FORMAT = -0.9


class StepsOptions(Options):
    """The budgets of one episode."""

    max_steps: int = Field(5, ge=1)
    """Steps; a query in the last one is still retrieved and judged."""
    max_tries: int = Field(3, ge=1)
    """Turns that a step may take until it begins with its heading."""
    max_tokens_per_step: int = Field(512, ge=1)
    """Tokens that the policy may write in a turn."""
    hits: int = Field(2, ge=1)
    """Passages of each search that are looked at."""
    deduplicate: bool = True
    """Leaves out passages that the episode has seen; they are not replaced."""
    max_documents: int = Field(10, ge=1)
    """Passages that an episode shows."""
    max_document_chars: int | None = Field(512, ge=1)
    """Characters of what one step shows; null for all."""
    as_published: bool = False
    """Repeats the published code's mistakes."""
    relevance: RelevanceOptions = RelevanceOptions()
    """The judge of each retrieval."""


class StepsEnvironment:
    """One episode."""

    Options: ClassVar = StepsOptions
    reads_cut_turns = True
    """A step that ran out of tokens is read for what it says."""

    def __init__(self, assignment: Assignment, options: StepsOptions, services: Services) -> None:
        self._question = assignment.question
        self._retrieval = assignment.retrieval
        self._options = options
        self._services = services
        self._history = ""
        self._seen: set[str] = set()
        self._number, self._tries = 1, 0

    def opening(self) -> Ask:
        """Shows the question and the steps so far."""
        question = Piece(before="The question: ", text=self._question.text, author=Author.PROMPT)
        history = Piece(text=self._history, author=Author.PROMPT)
        return Ask(
            pieces=(question, history), fresh=True, max_tokens=self._options.max_tokens_per_step
        )

    async def react(self, turn: Turn) -> Reply:
        """Retrieves for a query, ends with an answer, or asks again for the step."""
        self._tries += 1
        published = self._options.as_published
        counted = self._question.text + self._history + turn.text if published else turn.text
        if counted.count(heading(self._number)) != 1 and self._tries < self._options.max_tries:
            return Reply(then=self.opening())
        step = read_step(turn.text, as_published=published)
        if counted.count(heading(self._number)) != 1 or step is None:
            return Reply(then=End(status=Status.NO_ANSWER), reward=BAD_FORMAT)
        if step.answer:
            return Reply(then=End(status=Status.ANSWERED, answer=step.answer))
        if not self._retrieval:
            event = ToolUse(tool=SEARCH, arguments={"query": step.query}, outcome="refused")
            return Reply(then=End(status=Status.NO_ANSWER), events=(event,))
        return await self._retrieve(step)

    def written(self, turn: DemonstratedTurn) -> str:
        """A demonstrated turn as the policy should write it."""
        step = Step(analysis=turn.thought, query=turn.search or "", answer=turn.answer or "")
        return step.written(self._number)

    async def _retrieve(self, step: Step) -> Reply:
        lookup = Lookup(
            task=self._question.task,
            question=self._question.text,
            reasoning=step.analysis,
            query=step.query,
        )
        start_s, started = time.time(), time.perf_counter()
        finding = await self._services.knowledge.look_up(lookup)
        latency_s = time.perf_counter() - started
        event = search_event(step.query, finding, start_s=start_s, latency_s=latency_s)
        if isinstance(finding.outcome, RetrievalFailed) and not self._options.as_published:
            return Reply(then=End(status=Status.TOOL_FAILED), events=(event,))
        documents = self._documents(finding.outcome)
        worth = 0.0
        if not self._services.demonstrates:
            judged = JudgedStep(self._question.text, step.analysis, step.query, documents)
            worth = await make_relevance(self._options.relevance)(judged)
        self._history += step.shown(self._number, documents)
        self._number, self._tries = self._number + 1, 0
        over = self._number > self._options.max_steps
        then = End(status=Status.OUT_OF_TURNS) if over else self.opening()
        return Reply(then=then, events=(event,), reward=worth)

    def _documents(self, found: object) -> str:
        """The new ones among the first hits, cut to the step's characters."""
        if isinstance(found, Facts):
            return found.text[: self._options.max_document_chars]
        if not isinstance(found, tuple):
            return ""
        texts = []
        for passage in found[: self._options.hits]:
            is_repeated = self._options.deduplicate and passage.id in self._seen
            if not is_repeated and len(self._seen) < self._options.max_documents:
                self._seen.add(passage.id)
                titled = f"{passage.title}\n{passage.text}"  # as the published index has them
                texts.append(titled if passage.title else passage.text)
        return "\n".join(texts)[: self._options.max_document_chars]

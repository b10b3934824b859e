"""One search of an episode: from a query to the event to record and the observation to show."""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from ur2.types import (
    SEARCH,
    Facts,
    Finding,
    Group,
    Lookup,
    Passage,
    Question,
    RetrievalFailed,
    Segment,
    ToolOutcome,
    ToolUse,
    Unsearchable,
)

Trace = Callable[[str, str, float, float], object]
"""Told of a span of work: lane, what, and from when to when in epoch seconds."""


class Knowledge(Protocol):
    """Where an episode searches."""

    async def look_up(self, lookup: Lookup) -> Finding:
        """What is known; returns within its own deadline, and failures as values."""
        ...


class DocumentRenderer(Protocol):
    """How what was found becomes an observation."""

    def documents(
        self, found: Sequence[Passage] | str, *, max_tokens: int | None = None, turn: int = 0
    ) -> Segment:
        """Passages, or a text about them, between the documents markers, cut to `max_tokens`."""
        ...


def lookup_for(question: Question, segments: Sequence[Segment], query: str) -> Lookup:
    """The look-up of a trajectory whose segments so far, from the prompt on, are these."""
    return Lookup(
        task=question.task,
        question=question.text,
        reasoning="".join(segment.text for segment in segments[1:]),
        query=query,
    )


async def search_once(
    knowledge: Knowledge,
    renderer: DocumentRenderer,
    lookup: Lookup,
    *,
    max_tokens: int,
    turn: int,
) -> tuple[ToolUse, Segment | None]:
    """The event to record and the observation to append; no observation where the search failed."""
    start_s, started = time.time(), time.perf_counter()
    finding = await knowledge.look_up(lookup)
    latency_s = time.perf_counter() - started
    outcome, ids, shown = _read(finding)
    event = ToolUse(
        tool=SEARCH,
        arguments={"query": lookup.query},
        outcome=outcome,
        ids=ids,
        start_s=start_s,
        latency_s=latency_s,
        summary=finding.summary,
    )
    if shown is None:
        return event, None
    return event, renderer.documents(shown, max_tokens=max_tokens, turn=turn)


def trace_searches(group: Group, trace: Trace, start_s: float, end_s: float) -> None:
    """Tells when each search of a group, which was played from `start_s` to `end_s`, was under way.

    Another node's clock may be ahead or behind: searches are moved into the time of their group.
    """
    searches = [s for t in group.trajectories for s in t.events if s.outcome != "refused"]
    late_s = start_s - min((s.start_s for s in searches), default=start_s)
    early_s = end_s - max((s.start_s + s.latency_s for s in searches), default=end_s)
    moved_s = max(late_s, 0.0) or min(early_s, 0.0)
    for search in searches:
        began_s = search.start_s + moved_s
        trace("retrieval", search.query, began_s, began_s + search.latency_s)


def _read(
    finding: Finding,
) -> tuple[ToolOutcome, tuple[str, ...], Sequence[Passage] | str | None]:
    """The event's outcome and passage ids, and what is shown."""
    match finding.outcome:
        case RetrievalFailed():
            return "failed", (), None
        case Unsearchable(reply=reply):
            return "unsearchable", (), reply
        case Facts(text=text, passage_ids=passage_ids):
            return "found", passage_ids, text
        case passages:
            return "found", tuple(passage.id for passage in passages), passages

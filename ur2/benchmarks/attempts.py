"""A teacher's attempts at questions, what they cost, and which of them are kept."""

import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field

from ur2.demonstrations import RecordedContext
from ur2.types import Author, Segment, Status, Trajectory

CHARS_PER_TOKEN = 4
"""Of texts whose tokens nobody told."""


class Cost(NamedTuple):
    """What a teacher's episodes took."""

    calls: int = 0
    """Turns that it wrote."""
    tokens: int = 0
    """Read and written; a context is read anew for each of its turns."""

    @classmethod
    def of(cls, trajectory: Trajectory) -> Self:
        """The cost of an episode."""
        calls = tokens = 0
        for context in trajectory.contexts:
            length = 0
            for segment in context:
                length += num_tokens(segment)
                if segment.author is Author.POLICY:
                    calls, tokens = calls + 1, tokens + length
        return cls(calls, tokens)

    def beside(self, other: "Cost") -> "Cost":
        """The larger of each."""
        return Cost(max(self.calls, other.calls), max(self.tokens, other.tokens))


class Attempt(BaseModel):
    """One episode of a teacher, as a line of a file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    """Of the question."""
    question: str
    """Its text: a changed file is noticed."""
    number: int = Field(ge=1)
    """Among the attempts at the question."""
    status: Status
    correct: float
    """Graded correctness in [0, 1]."""
    unscored: bool
    """Nobody gave a verdict."""
    reward: float
    num_searches: int
    longest_context: int
    """Tokens of the longest context."""
    cost: Cost
    contexts: tuple[RecordedContext, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepRule:
    """Which attempts become demonstrations."""

    keep: Literal["first_correct", "best"] = "first_correct"
    min_correct: float = 1.0
    min_searches: int = 0
    max_searches: int | None = None
    max_context_tokens: int | None = None

    def refusal(self, attempt: Attempt) -> str:
        """The reason why an attempt is not kept; empty where it may be."""
        if attempt.status is not Status.ANSWERED:
            return attempt.status.value
        if attempt.unscored:
            return "no verdict"
        if attempt.correct < self.min_correct:
            return "wrong"
        if not self._fits(attempt.num_searches, self.max_searches):
            return "too many searches"
        if attempt.num_searches < self.min_searches:
            return "too few searches"
        if not self._fits(attempt.longest_context, self.max_context_tokens):
            return "too long"
        return ""

    def is_done(self, attempts: Sequence[Attempt]) -> bool:
        """Whether a question needs no further attempt."""
        return self.keep == "first_correct" and any(not self.refusal(a) for a in attempts)

    def chosen(self, attempts: Sequence[Attempt]) -> Attempt | None:
        """The attempt at a question that is kept, if any is; of equals the first."""
        kept = sorted((a for a in attempts if not self.refusal(a)), key=lambda a: a.number)
        if self.keep == "best":
            return max(kept, key=lambda a: a.reward, default=None)
        return kept[0] if kept else None

    @staticmethod
    def _fits(value: int, limit: int | None) -> bool:
        return limit is None or value <= limit


def by_question(attempts: Iterable[Attempt]) -> dict[str, list[Attempt]]:
    """Attempts by the question's id."""
    found: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        found.setdefault(attempt.id, []).append(attempt)
    return found


def total(attempts: Iterable[Attempt]) -> Cost:
    """The cost of all of them."""
    costs = [attempt.cost for attempt in attempts]
    return Cost(sum(c.calls for c in costs), sum(c.tokens for c in costs))


def largest(attempts: Iterable[Attempt]) -> Cost | None:
    """The most that one of them cost; None where there are none."""
    costs = [attempt.cost for attempt in attempts]
    return functools.reduce(Cost.beside, costs) if costs else None


def refusals(attempts: Iterable[Attempt], rule: KeepRule) -> Mapping[str, int]:
    """How many attempts were refused, by reason."""
    return Counter(reason for a in attempts if (reason := rule.refusal(a)))


def num_tokens(segment: Segment) -> int:
    """A segment's tokens; where nobody told them, one for four characters."""
    return len(segment.token_ids) or -(-len(segment.text) // CHARS_PER_TOKEN)

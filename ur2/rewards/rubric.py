"""The reward: a sum of named terms, each its weight at the step times what its kind measures."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from ur2.errors import InputError
from ur2.rewards.choice import choice_match
from ur2.rewards.extract import plain
from ur2.rewards.format import violations
from ur2.rewards.markup import Markup
from ur2.rewards.math import equivalent
from ur2.rewards.options import GraderName, RewardOptions, TermKind, TermOptions
from ur2.rewards.qa import cover_exact_match, exact_match, f1
from ur2.rewards.search import num_unsearchable, search_bonus
from ur2.types import Assignment, Group, Question, Score, ScoredGroup, Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a term sees of a trajectory."""

    trajectory: Trajectory
    grade: float
    """Of the final answer, 0 to 1."""
    violations: tuple[str, ...]
    """Names of the format checks that failed."""


class Rubric:
    """Scores groups; holds no state."""

    def __init__(self, options: RewardOptions, markup: Markup) -> None:
        self._options = options
        self._markup = markup

    @classmethod
    def from_options(cls, options: RewardOptions, protocol: Markup) -> Self:
        """A rubric for episodes under `protocol`."""
        return cls(options, protocol)

    def check(self, questions: Iterable[Question]) -> None:
        """Refuses questions that could not be scored.

        Raises:
            InputError: no grader is configured for a question's task.
        """
        for question in questions:
            if question.task not in self._options.graders:
                raise InputError(
                    f"question '{question.id}' is a '{question.task}' task, and the reward config "
                    f"has no graders.{question.task}; add one or leave the question out"
                )

    async def score(self, group: Group, step: int) -> ScoredGroup:
        """One score per trajectory, in order.

        Args:
            group: what was sampled.
            step: the training step, counted from 1, which the weights may depend on.

        Raises:
            InputError: no grader is configured for the question's task.
        """
        self.check([group.assignment.question])
        scores = await asyncio.gather(
            *(self._score(t, group.assignment, step) for t in group.trajectories)
        )
        return ScoredGroup(group=group, scores=tuple(scores))

    async def _score(self, trajectory: Trajectory, assignment: Assignment, step: int) -> Score:
        question = assignment.question
        turns = trajectory.policy_texts
        answer = self._markup.answer(turns[-1], question.task) if turns else None
        grader = GRADERS[self._options.graders[question.task]]
        outcome = Outcome(
            trajectory=trajectory,
            grade=0.0 if answer is None else await grader(answer, question),
            violations=violations(
                trajectory,
                question,
                retrieval=assignment.retrieval,
                answer=answer,
                markup=self._markup,
            ),
        )
        parts = {
            name: _value(term, outcome, assignment, step)
            for name, term in self._options.terms.items()
        }
        total = sum(parts.values())
        if self._options.clip is not None:
            lowest, highest = self._options.clip
            clipped = min(max(total, lowest), highest)
            parts["clip"] = clipped - total
            total = clipped
        return Score(total=total, parts=parts, correct=outcome.grade)


def _value(term: TermOptions, outcome: Outcome, assignment: Assignment, step: int) -> float:
    question = assignment.question
    gates = (
        term.tasks is None or question.task in term.tasks,
        term.levels is None or question.level in term.levels,
        term.retrieval is None or assignment.retrieval is term.retrieval,
    )
    if not all(gates):
        return 0.0
    value = term.weight_at(step) * TERMS[term.kind](outcome, term) or 0.0  # not -0.0
    return value if term.clip is None else min(max(value, term.clip[0]), term.clip[1])


async def _exact_match(answer: str, question: Question) -> float:
    return exact_match(plain(answer), question.answers)


async def _cover_exact_match(answer: str, question: Question) -> float:
    return cover_exact_match(plain(answer), question.answers)


async def _f1(answer: str, question: Question) -> float:
    return f1(plain(answer), question.answers)


async def _choice(answer: str, question: Question) -> float:
    return choice_match(answer, question.answers, question.options)


async def _equivalent(answer: str, question: Question) -> float:
    for gold in question.answers:
        if await asyncio.to_thread(equivalent, answer, gold):
            return 1.0
    return 0.0


GRADERS: Mapping[GraderName, Callable[[str, Question], Awaitable[float]]] = {
    "exact_match": _exact_match,
    "cover_exact_match": _cover_exact_match,
    "f1": _f1,
    "choice": _choice,
    "equivalent": _equivalent,
}

TERMS: Mapping[TermKind, Callable[[Outcome, TermOptions], float]] = {
    "answer": lambda outcome, term: outcome.grade,
    "format": lambda outcome, term: float(not outcome.violations),
    "searches": lambda outcome, term: float(outcome.trajectory.num_searches),
    "search_bonus": lambda outcome, term: search_bonus(
        outcome.trajectory.num_searches, term.values
    ),
    "unsearchable": lambda outcome, term: float(num_unsearchable(outcome.trajectory)),
}

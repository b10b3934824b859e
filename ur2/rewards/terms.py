"""The terms of a reward: what each kind measures, and the parts that they sum to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ur2.rewards.options import RewardOptions, TermKind, TermOptions
from ur2.types import Assignment, Trajectory


@dataclass(frozen=True, slots=True)
class GradedTrajectory:
    """A trajectory as a term sees it."""

    trajectory: Trajectory
    grade: float
    """The grade of the final answer, 0 to 1."""
    violations: tuple[str, ...]
    """The format checks that failed, once per violation."""


class TermAtStep(NamedTuple):
    """A term at a step, for one group."""

    name: str
    options: TermOptions
    weight: float
    is_open: bool
    """Whether its gates let it count."""


def terms_for(options: RewardOptions, assignment: Assignment, step: int) -> tuple[TermAtStep, ...]:
    """The terms of a whole group, which follow from its task, level, retrieval mode and step."""
    return tuple(
        TermAtStep(name, term, term.weight_at(step), _gates_are_open(term, assignment))
        for name, term in options.terms.items()
    )


def parts_of(outcome: GradedTrajectory, terms: Sequence[TermAtStep]) -> dict[str, float]:
    """The weighted value of every term by name; 0 where it does not apply."""
    measures = {
        name: MEASURES[term.kind](outcome, term) if is_open else 0.0
        for name, term, _, is_open in terms
    }
    return {
        name: _value(weight * measures[name], term)
        if is_open and _conditions_hold(term, measures)
        else 0.0
        for name, term, weight, is_open in terms
    }


def _gates_are_open(term: TermOptions, assignment: Assignment) -> bool:
    question = assignment.question
    return (
        (term.tasks is None or question.task in term.tasks)
        and (term.levels is None or question.level in term.levels)
        and (term.retrieval is None or assignment.retrieval is term.retrieval)
    )


def _value(value: float, term: TermOptions) -> float:
    if term.clip is not None:
        value = min(max(value, term.clip[0]), term.clip[1])
    return value or 0.0  # not -0.0


def _conditions_hold(term: TermOptions, measures: Mapping[str, float]) -> bool:
    if not term.requires and not term.unless:
        return True
    return all(measures[name] >= 1 for name in term.requires) and not any(
        measures[name] >= 1 for name in term.unless
    )


def search_bonus(num_searches: int, values: Sequence[float]) -> float:
    """`values` at the number of searches; the last one holds for more."""
    return values[min(num_searches, len(values) - 1)]


def num_unsearchable(trajectory: Trajectory) -> int:
    """Searches that were answered as not searchable."""
    return sum(event.outcome == "unsearchable" for event in trajectory.searches)


MEASURES: Mapping[TermKind, Callable[[GradedTrajectory, TermOptions], float]] = {
    "answer": lambda outcome, term: outcome.grade,
    "format": lambda outcome, term: 0.0 if outcome.violations else 1.0,
    "violations": lambda outcome, term: float(len(outcome.violations)),
    "searches": lambda outcome, term: float(outcome.trajectory.num_searches),
    "search_bonus": lambda outcome, term: search_bonus(
        outcome.trajectory.num_searches, term.values
    ),
    "unsearchable": lambda outcome, term: float(num_unsearchable(outcome.trajectory)),
    "constant": lambda outcome, term: 1.0,
}

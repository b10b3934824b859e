"""The terms of a reward: what each kind measures, and the parts that they sum to.

A kind measures a trajectory, or each turn of the policy. The values of turns sum to the
trajectory's part, and are kept, so that credit can go where it was earned.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

from ur2.errors import InputError, PluginError
from ur2.options import Options
from ur2.plugins import blaming, find_facts, own_options
from ur2.rewards.options import RewardOptions, TermOptions
from ur2.rewards.steps import StepsRewardOptions, step_rewards
from ur2.types import Assignment, Author, Group, Trajectory

MAX_VALUE = 1e30
"""The largest value of a term: squares, and sums of many, stay finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedTrajectory:
    """A trajectory as a term sees it."""

    assignment: Assignment
    """The question, and whether retrieval was on."""
    trajectory: Trajectory
    grade: float
    """The grade of the final answer, 0 to 1."""
    violations: tuple[str, ...]
    """The format checks that failed, once per violation."""
    violations_cost: bool = True
    """Whether their number counts, beyond that the form is not clean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TermFacts:
    """All that there is to know of a kind of term."""

    measure: Callable[[GradedTrajectory, Any], float | Sequence[float]]
    """The value of an outcome, by the term's own options; or a value for each turn."""
    by: Literal["trajectory", "turn"] = "trajectory"
    """The thing that is measured."""
    options: type[Options] | None = None
    """The class of its own options, where it has some."""
    weighs_earned: bool = False
    """It weighs what the environment gave each turn, which counts as it is where no term does."""
    takes_values: bool = False
    """Its own options are the term's `values`, which it needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A term of one reward."""

    name: str
    options: TermOptions
    facts: TermFacts
    own: Any
    """The kind's own options."""

    @classmethod
    def load(cls, name: str, options: TermOptions) -> Self:
        """The term that options describe.

        Raises:
            InputError: there is no such kind, or its options do not fit.
        """
        where = f"reward.terms.{name}"
        facts = find_facts(options.kind, TERMS, TermFacts, _of_function, key=f"{where}.kind")
        if facts.takes_values != bool(options.values):
            need = "needs" if facts.takes_values else "has no"
            raise InputError(f"{where}: kind '{options.kind}' {need} `values`")
        own = own_options(facts.options, options.options, where=f"{where}.options")
        return cls(
            name=name,
            options=options,
            facts=facts,
            own=options.values if facts.takes_values else own,
        )

    def measured(self, outcome: GradedTrajectory) -> tuple[float, ...]:
        """The values of an outcome: one, or one per turn.

        Raises:
            PluginError: the measure raised, or gave what is no value.
        """
        what = f"reward term '{self.name}' on trajectory '{outcome.trajectory.id}'"
        with blaming(what):
            found: Any = self.facts.measure(outcome, self.own)
            by_turn = self.facts.by == "turn"
            values = tuple(map(float, found)) if by_turn else (float(found),)
        if not all(abs(value) <= MAX_VALUE for value in values):  # nan is not
            raise PluginError(f"{what} measured {found!r:.80}, which is not finite or beyond 1e30")
        if by_turn and len(values) != (num_turns := len(outcome.trajectory.policy_texts)):
            raise PluginError(f"{what} gave {len(values)} values for {num_turns} turns")
        return values


class TermAtStep(NamedTuple):
    """A term at a step, for one group."""

    term: Term
    weight: float
    is_open: bool
    """Whether its gates let it count."""


class WeightedParts(NamedTuple):
    """The weighted values of one trajectory."""

    of_terms: dict[str, float]
    """By name; 0 where a term does not apply."""
    of_turns: tuple[float, ...]
    """The share of each turn, by terms that measure turns; empty without such terms."""


def load_terms(options: RewardOptions) -> tuple[Term, ...]:
    """The terms of a reward.

    Raises:
        InputError: there is no such kind, or its options do not fit.
    """
    return tuple(Term.load(name, term) for name, term in options.terms.items())


def with_earned(terms: tuple[Term, ...], group: Group) -> tuple[Term, ...]:
    """The terms, and `turns` where the environment rewarded turns and no term weighs that."""
    weighs = any(term.facts.weighs_earned for term in terms)
    if weighs or not any(any(earned(trajectory)) for trajectory in group.trajectories):
        return terms
    return (*terms, Term.load("turns", TermOptions(kind="earned")))


def terms_for(terms: Sequence[Term], assignment: Assignment, step: int) -> tuple[TermAtStep, ...]:
    """The terms as they are for a whole group: task, level, retrieval mode and step are its own."""
    return tuple(
        TermAtStep(term, term.options.weight_at(step), _gates_are_open(term.options, assignment))
        for term in terms
    )


def parts_of(outcome: GradedTrajectory, terms: Sequence[TermAtStep]) -> WeightedParts:
    """The weighted values of every term."""
    measured = {at.term.name: at.term.measured(outcome) if at.is_open else () for at in terms}
    sums = {name: sum(values) for name, values in measured.items()}
    weighted = {
        at.term.name: [_value(at.weight * x, at.term.options) for x in measured[at.term.name]]
        if _conditions_hold(at.term.options, sums)
        else []
        for at in terms
    }
    of_terms = {name: sum(values, 0.0) for name, values in weighted.items()}
    for name, value in of_terms.items():
        if not abs(value) <= MAX_VALUE:
            raise PluginError(
                f"reward term '{name}' on trajectory '{outcome.trajectory.id}' is {value} by its "
                "weight, which is not finite or beyond 1e30"
            )
    by_turn = [weighted[at.term.name] for at in terms if at.term.facts.by == "turn"]
    num_turns = len(outcome.trajectory.policy_texts) if by_turn else 0
    return WeightedParts(of_terms=of_terms, of_turns=_by_turn(by_turn, num_turns))


def _by_turn(of_terms: Sequence[Sequence[float]], num_turns: int) -> tuple[float, ...]:
    """Sums over terms; a term that does not apply has no values."""
    if not of_terms:
        return ()
    return tuple(sum((values[n] for values in of_terms if values), 0.0) for n in range(num_turns))


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


def earned(trajectory: Trajectory) -> list[float]:
    """The reward that the environment gave each turn."""
    return [s.reward for s in trajectory.segments if s.author is Author.POLICY]


def _of_function(measure: Callable[[GradedTrajectory], float]) -> TermFacts:
    return TermFacts(measure=lambda outcome, _: measure(outcome))


TERMS: Mapping[str, TermFacts] = {
    "answer": TermFacts(measure=lambda outcome, _: outcome.grade),
    "format": TermFacts(measure=lambda outcome, _: 0.0 if outcome.violations else 1.0),
    "violations": TermFacts(
        measure=lambda outcome, _: len(outcome.violations) * outcome.violations_cost
    ),
    "searches": TermFacts(measure=lambda outcome, _: outcome.trajectory.num_searches),
    "search_bonus": TermFacts(
        measure=lambda outcome, values: search_bonus(outcome.trajectory.num_searches, values),
        takes_values=True,
    ),
    "unsearchable": TermFacts(measure=lambda outcome, _: num_unsearchable(outcome.trajectory)),
    "earned": TermFacts(
        measure=lambda outcome, _: earned(outcome.trajectory), by="turn", weighs_earned=True
    ),
    "steps": TermFacts(
        measure=lambda outcome, own: step_rewards(outcome.trajectory, outcome.grade, own),
        by="turn",
        weighs_earned=True,
        options=StepsRewardOptions,
    ),
    "constant": TermFacts(measure=lambda outcome, _: 1.0),
}

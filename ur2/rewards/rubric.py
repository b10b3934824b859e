"""The reward: a sum of named terms, each its weight at the step times what its kind measures."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Self

from ur2.errors import InputError
from ur2.rewards.format import violations
from ur2.rewards.grading import Answered, Grade, Grading
from ur2.rewards.markup import Markup
from ur2.rewards.options import RewardOptions, at_step
from ur2.rewards.terms import (
    GradedTrajectory,
    WeightedParts,
    load_terms,
    parts_of,
    terms_for,
    with_earned,
)
from ur2.types import Group, Question, Score, ScoredGroup, Trajectory


class Rubric:
    """Scores groups; a group's scores depend on nothing but the group and the step."""

    def __init__(self, options: RewardOptions, markup: Markup) -> None:
        self._options = options
        self._markup = markup
        self._terms = load_terms(options)
        self._grading = Grading(options)

    @classmethod
    def from_options(cls, options: RewardOptions, dialect: Markup) -> Self:
        """A rubric for episodes under `dialect`.

        Raises:
            InputError: there is no such term or grader, its options do not fit, or the judge's
                address is malformed.
        """
        return cls(options, dialect)

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
        """The scores of one group; `score_all` grades many groups at once, which is faster."""
        return (await self.score_all([group], step))[0]

    async def score_all(self, groups: Sequence[Group], step: int) -> list[ScoredGroup]:
        """One score per trajectory, in order.

        Args:
            groups: what was sampled.
            step: the training step, counted from 1, which the weights may depend on.

        Raises:
            InputError: no grader is configured for a question's task.
            ComponentError: a grader does not come up, or a judge that must not fail failed.
        """
        self.check(group.assignment.question for group in groups)
        grades = await self._grading.grade([_answered(group) for group in groups])
        return [
            ScoredGroup(group=group, scores=self._scores(group, graded, step))
            for group, graded in zip(groups, grades, strict=True)
        ]

    def _scores(self, group: Group, grades: Sequence[Grade], step: int) -> tuple[Score, ...]:
        terms = terms_for(with_earned(self._terms, group), group.assignment, step)
        minimum = at_step(self._options.min_searches, step)
        scores = []
        for trajectory, grade in zip(group.trajectories, grades, strict=True):
            outcome = GradedTrajectory(
                assignment=group.assignment,
                trajectory=trajectory,
                grade=grade.value,
                violations=self._violations(trajectory, group, minimum),
                violations_cost=self._violations_cost(trajectory, group),
            )
            scores.append(self._score(parts_of(outcome, terms), grade))
        judge = self._options.judge
        neutral = [grade.is_neutral for grade in grades]
        if any(neutral) or (judge is not None and judge.unscored == "group_mean"):
            return _without_advantage(scores, neutral)
        return tuple(scores)

    def _violations(self, trajectory: Trajectory, group: Group, minimum: float) -> tuple[str, ...]:
        return violations(
            trajectory,
            group.assignment.question,
            retrieval=group.assignment.retrieval,
            answer=trajectory.answer,
            markup=self._markup,
            min_searches=minimum,
            as_published=self._options.as_published,
        )

    def _violations_cost(self, trajectory: Trajectory, group: Group) -> bool:
        """As published, only where the policy was shown how to search, or tried to."""
        if not self._options.as_published or group.assignment.retrieval:
            return True
        return any(self._markup.search.open in text for text in trajectory.policy_texts)

    def _score(self, weighted: WeightedParts, grade: Grade) -> Score:
        parts = weighted.of_terms
        total = sum(parts.values())
        if self._options.clip is not None:
            lowest, highest = self._options.clip
            clipped = min(max(total, lowest), highest)
            parts["clip"] = clipped - total
            total = clipped
        return Score(
            total=total,
            parts=parts,
            correct=grade.value,
            unscored=grade.unscored,
            turns=weighted.of_turns,
        )


def _answered(group: Group) -> Answered:
    answers = tuple(trajectory.answer for trajectory in group.trajectories)
    return Answered(group.assignment.question, answers)


def _without_advantage(scores: Sequence[Score], neutral: Sequence[bool]) -> tuple[Score, ...]:
    """Neutral trajectories get the mean of the group's others, as the part `unscored`.

    Where there are no others, all get the mean of all, so that the group carries no signal.
    """
    pairs = list(zip(scores, neutral, strict=True))
    mean = fmean(
        [s.total for s, is_neutral in pairs if not is_neutral] or [s.total for s in scores]
    )
    return tuple(
        replace(
            score,
            total=mean,
            parts={**score.parts, "unscored": mean - score.total},
            turns=(0.0,) * len(score.turns),
        )
        if is_neutral
        else replace(score, parts={**score.parts, "unscored": 0.0})
        for score, is_neutral in pairs
    )

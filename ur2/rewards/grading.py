"""Grades of final answers, 0 to 1: by the grader of the task, then by the judge."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ur2.errors import ComponentError
from ur2.rewards.choice import choice_match
from ur2.rewards.extract import plain
from ur2.rewards.judge import AnswerToJudge, Judge
from ur2.rewards.math import equivalent_to_any
from ur2.rewards.options import GraderName, RewardOptions
from ur2.rewards.qa import cover_exact_match, exact_match, f1
from ur2.types import Question


class Grade(NamedTuple):
    """The grade of one final answer."""

    value: float
    unscored: bool = False
    """The judge was asked and gave no verdict."""


class Answered(NamedTuple):
    """Final answers to one question; None where a trajectory gave none."""

    question: Question
    answers: tuple[str | None, ...]


NO_ANSWER = Grade(0.0)


class Grading:
    """Grades answers; equal answers to a question are graded once."""

    def __init__(self, options: RewardOptions) -> None:
        self._options = options
        self._judge = None if options.judge is None else Judge(options.judge)

    async def grade(self, groups: Sequence[Answered]) -> list[list[Grade]]:
        """Grades in the order of the answers.

        Raises:
            ComponentError: an answer got no verdict and `judge.unscored` is `fail`, or the process
                that compares mathematical answers does not start.
        """
        known = await asyncio.gather(*(self._by_grader(group) for group in groups))
        if self._judge is not None:
            await self._by_judge(self._judge, groups, known)
        return [
            [NO_ANSWER if answer is None else grades[answer] for answer in group.answers]
            for group, grades in zip(groups, known, strict=True)
        ]

    async def _by_grader(self, group: Answered) -> dict[str, Grade]:
        name = self._options.graders[group.question.task]
        distinct = list(dict.fromkeys(answer for answer in group.answers if answer is not None))
        if name == "equivalent":
            limits, golds = self._options.math, group.question.answers
            found = await asyncio.gather(
                *(
                    equivalent_to_any(a, golds, timeout_s=limits.timeout_s, cpu_s=limits.cpu_s)
                    for a in distinct
                )
            )
            return {a: Grade(float(same)) for a, same in zip(distinct, found, strict=True)}
        grader = GRADERS[name]
        return {answer: Grade(grader(answer, group.question)) for answer in distinct}

    async def _by_judge(
        self, judge: Judge, groups: Sequence[Answered], known: Sequence[dict[str, Grade]]
    ) -> None:
        """Puts the judge's grades in the place of those below 1."""
        options = judge.options
        asked = [
            (grades, AnswerToJudge(group.question, answer))
            for group, grades in zip(groups, known, strict=True)
            if group.question.task in options.tasks
            for answer, grade in grades.items()
            if grade.value < 1
        ]
        verdicts = await judge.verdicts([item for _, item in asked])
        missing = verdicts.count(None)
        if missing and options.unscored == "fail":
            raise ComponentError(
                f"the judge gave no verdict on {missing} of {len(verdicts)} answers: "
                f"{judge.last_failure} (reward.judge.unscored is 'fail')"
            )
        for (grades, item), verdict in zip(asked, verdicts, strict=True):
            if verdict is not None:
                grades[item.answer] = Grade(options.grades[verdict])
            else:
                value = 0.0 if options.unscored == "zero" else grades[item.answer].value
                grades[item.answer] = Grade(value, unscored=True)


GRADERS: Mapping[GraderName, Callable[[str, Question], float]] = {
    "exact_match": lambda answer, question: exact_match(plain(answer), question.answers),
    "cover_exact_match": lambda answer, question: cover_exact_match(
        plain(answer), question.answers
    ),
    "f1": lambda answer, question: f1(plain(answer), question.answers),
    "choice": lambda answer, question: choice_match(answer, question.answers, question.options),
}
"""Graders that need no waiting; `equivalent` asks other processes."""

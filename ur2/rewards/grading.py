"""Grades of final answers, 0 to 1: by the grader of the task, then by the judge."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any, NamedTuple, Self

from ur2.errors import ComponentError, InputError, PluginError
from ur2.options import Options
from ur2.plugins import blaming, find_facts, own_options
from ur2.rewards.choice import choice_match
from ur2.rewards.extract import plain
from ur2.rewards.judge import AnswerToJudge, Judge
from ur2.rewards.math import equivalent_to_any
from ur2.rewards.options import MathOptions, QaOptions, RewardOptions
from ur2.rewards.qa import cover_exact_match, exact_match, f1
from ur2.rewards.steps import CasedMatchOptions, cased_match
from ur2.types import Question, Task


class Grade(NamedTuple):
    """The grade of one final answer."""

    value: float
    unscored: bool = False
    """Nobody gave a verdict: neither a comparison that ended, nor the judge that was asked."""
    is_neutral: bool = False
    """The mean of the group's other rewards stands in for the trajectory's."""


class Answered(NamedTuple):
    """Final answers to one question; None where a trajectory gave none."""

    question: Question
    answers: tuple[str | None, ...]


NO_ANSWER = Grade(0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraderFacts:
    """All that there is to know of a grader."""

    grade: Callable[[str, Question, Any], float | Awaitable[float | None] | None]
    """The grade of an answer, 0 to 1, by the grader's own options; None: there is no verdict."""
    waits: bool = False
    """`grade` is a coroutine, which asks another process; a question's answers wait together."""
    timeout_s: float | None = 60.0
    """The longest wait for one grade; None: `grade` keeps a deadline of its own."""
    tasks: tuple[Task, ...] | None = None
    """Tasks whose answers it can read; None: all."""
    options: type[Options] | None = None
    """The class of its own options, where it has some."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grader:
    """The grader of one task."""

    name: str
    facts: GraderFacts
    own: Any
    """Its own options."""

    @classmethod
    def load(cls, task: Task, options: RewardOptions) -> Self:
        """The grader that options name for a task.

        Raises:
            InputError: there is none of that name, it cannot grade the task, or its options do not
                fit.
        """
        name, key = options.graders[task], f"reward.graders.{task}"
        facts = find_facts(name, GRADERS, GraderFacts, _of_function, key=key)
        if facts.tasks is not None and task not in facts.tasks:
            raise InputError(f"{key} cannot be '{name}': it grades {', '.join(facts.tasks)}")
        tree = options.grader_options.get(task, {})
        shared = {MathOptions: ("math", options.math), QaOptions: ("qa", options.qa)}
        if facts.options in shared:
            place, own = shared[facts.options]
            if tree:
                raise InputError(
                    f"reward.grader_options.{task}: there are no such options; those of '{name}' "
                    f"are in reward.{place}"
                )
            return cls(name=name, facts=facts, own=own)
        own = own_options(facts.options, tree, where=f"reward.grader_options.{task}")
        return cls(name=name, facts=facts, own=own)

    async def grade(self, answer: str, question: Question) -> Grade:
        """The grade of one answer.

        Raises:
            PluginError: the grader raised, took too long, or gave what is no grade.
            ComponentError: it came to no verdict, which `math.unscored` does not allow.
        """
        what = f"grader '{self.name}' on question '{question.id}'"
        with blaming(what):
            found: Any = self.facts.grade(answer, question, self.own)
            if self.facts.waits:
                async with asyncio.timeout(self.facts.timeout_s):
                    found = await found
            value = None if found is None else float(found)
        if value is None:
            rule = self.own.unscored if isinstance(self.own, MathOptions) else "group_mean"
            if rule == "fail":
                raise ComponentError(f"{what} came to no verdict (its rule is 'fail')")
            return Grade(0.0, unscored=True, is_neutral=rule == "group_mean")
        if not 0 <= value <= 1:
            raise PluginError(f"{what} gave {value}; a grade is between 0 and 1")
        return Grade(value)


class Grading:
    """Grades answers; equal answers to a question are graded once."""

    def __init__(self, options: RewardOptions) -> None:
        self._graders = {task: Grader.load(task, options) for task in options.graders}
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
        grader = self._graders[group.question.task]
        distinct = list(dict.fromkeys(answer for answer in group.answers if answer is not None))
        if not grader.facts.waits:
            return {answer: await grader.grade(answer, group.question) for answer in distinct}
        grades = await asyncio.gather(*(grader.grade(a, group.question) for a in distinct))
        return dict(zip(distinct, grades, strict=True))

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
                neutral = options.unscored == "group_mean"
                grades[item.answer] = Grade(value, unscored=True, is_neutral=neutral)


async def _equivalent(answer: str, question: Question, options: MathOptions) -> float | None:
    equal = await equivalent_to_any(
        answer,
        question.answers,
        timeout_s=options.timeout_s,
        cpu_s=options.cpu_s,
        percent=options.percent,
    )
    return None if equal is None else float(equal)


def _by_words(measure: Callable[..., float]) -> Callable[[str, Question, QaOptions], float]:
    def grade(answer: str, question: Question, options: QaOptions) -> float:
        rules = {"normalise": options.normalise, "keep_marks": options.keep_marks}
        return measure(plain(answer), question.answers, **rules)

    return grade


def _of_function(
    grade: Callable[[str, Question], float | Awaitable[float | None] | None],
) -> GraderFacts:
    return GraderFacts(grade=lambda a, q, _: grade(a, q), waits=iscoroutinefunction(grade))


GRADERS: Mapping[str, GraderFacts] = {
    "exact_match": GraderFacts(grade=_by_words(exact_match), options=QaOptions),
    "cover_exact_match": GraderFacts(grade=_by_words(cover_exact_match), options=QaOptions),
    "cased_match": GraderFacts(grade=cased_match, options=CasedMatchOptions),
    "f1": GraderFacts(grade=_by_words(f1), options=QaOptions),
    "choice": GraderFacts(
        grade=lambda a, q, _: choice_match(a, q.answers, q.options), tasks=("choice",)
    ),
    "equivalent": GraderFacts(grade=_equivalent, options=MathOptions, waits=True, timeout_s=None),
}

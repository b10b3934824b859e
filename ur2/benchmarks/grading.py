"""One played question becomes one item: how it ended, what was answered, what each metric says."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from ur2.benchmarks.options import BenchmarkOptions, MetricName
from ur2.rewards.choice import choice_match
from ur2.rewards.extract import plain
from ur2.rewards.judge import AnswerToJudge
from ur2.rewards.math import equivalent_to_any
from ur2.rewards.options import Verdict
from ur2.rewards.qa import cover_exact_match, exact_match, f1
from ur2.types import Author, Group, Question, Status


class BenchmarkItem(BaseModel):
    """One question of a benchmark, as a line of its file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: str
    part: str
    """The subject or level it counts towards, where the benchmark has parts."""
    question: str
    golds: tuple[str, ...]
    status: Status
    answer: str | None
    """The final answer; None counts as wrong in every metric."""
    metrics: dict[MetricName, float | None]
    """0 to 1; None where nobody could judge, or a comparison came to nothing."""
    queries: tuple[str, ...]
    num_searches: int
    num_failed_searches: int
    transcript: tuple[tuple[Author, str], ...]
    """Texts after the prompt, each with its author."""


class GivesVerdicts(Protocol):
    """A language model that compares answers."""

    async def verdicts(self, items: Sequence[AnswerToJudge]) -> list[Verdict | None]:
        """One verdict per item; None where there is none."""
        ...


VERDICT_VALUES: Mapping[Verdict, float] = {
    "correct": 1.0,
    "partially correct": 0.5,
    "incorrect": 0.0,
}
"""The paper's."""


async def grade(
    group: Group, options: BenchmarkOptions, judge: GivesVerdicts | None
) -> BenchmarkItem:
    """The item of a group of one trajectory."""
    (trajectory,) = group.trajectories
    question = group.assignment.question
    answer = trajectory.answer
    metrics: dict[MetricName, float | None] = {}
    for name in options.metrics:
        if name == "judge":
            metrics[name] = await _judged(answer, question, options, judge)
        elif answer is None:
            metrics[name] = 0.0
        else:
            metrics[name] = await _measured(name, answer, question, options)
    return BenchmarkItem(
        id=question.id,
        part=part_of(question, options),
        question=question.text,
        golds=question.answers,
        status=trajectory.status,
        answer=answer,
        metrics=metrics,
        queries=tuple(search.query for search in trajectory.searches),
        num_searches=trajectory.num_searches,
        num_failed_searches=sum(s.outcome == "failed" for s in trajectory.searches),
        transcript=tuple(
            (segment.author, segment.text)
            for segment in trajectory.segments
            if segment.author is not Author.PROMPT
        ),
    )


def part_of(question: Question, options: BenchmarkOptions) -> str:
    """The part of the benchmark that a question belongs to."""
    match options.parts:
        case "subject":
            return question.subject
        case "level":
            return str(question.level.value)
        case None:
            return ""


async def _judged(
    answer: str | None, question: Question, options: BenchmarkOptions, judge: GivesVerdicts | None
) -> float | None:
    """The verdict: 1 without asking where the cheap metric is sure, None without a judge."""
    if judge is None:
        return None
    if answer is None:
        return 0.0
    sure: MetricName = "equivalence" if question.task == "math" else "f1"
    if await _measured(sure, answer, question, options) == 1.0:
        return 1.0
    (verdict,) = await judge.verdicts([AnswerToJudge(question, answer)])
    return None if verdict is None else VERDICT_VALUES[verdict]


async def _measured(
    name: MetricName, answer: str, question: Question, options: BenchmarkOptions
) -> float | None:
    if name == "equivalence":
        equal = await equivalent_to_any(answer, question.answers)
        return None if equal is None else float(equal)
    if name in ("accuracy", "macro_accuracy"):
        return choice_match(answer, question.answers, question.options)
    return _OF_WORDS[name](plain(answer), question.answers, normalise=options.normalise)


_OF_WORDS: Mapping[MetricName, Callable[..., float]] = {
    "exact_match": exact_match,
    "cover_exact_match": cover_exact_match,
    "f1": f1,
}

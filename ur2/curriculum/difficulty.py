"""How hard questions are for a policy, from its rollouts, and what retrieval adds.

`ur2.difficulty` plays the rollouts.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from statistics import NormalDist, fmean, stdev

from pydantic import BaseModel, ConfigDict, Field

from ur2.curriculum.options import LevelOptions
from ur2.curriculum.outcome import GroupOutcome
from ur2.types import Level, Question


class Tally(BaseModel):
    """How the samples of one question did in one mode, as a line of a file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: str
    question: str
    """Its text: a changed file is noticed."""
    retrieval: bool
    num_samples: int = Field(gt=0)
    num_correct: float
    num_searches: int

    @classmethod
    def of(cls, outcome: GroupOutcome) -> "Tally":
        """The tally of a played group."""
        return cls(
            id=outcome.question.id,
            question=outcome.question.text,
            retrieval=outcome.retrieval,
            num_samples=outcome.num_samples,
            num_correct=outcome.num_correct,
            num_searches=outcome.num_searches,
        )

    @property
    def pass_rate(self) -> float:
        """The mean correctness of the samples."""
        return self.num_correct / self.num_samples


Tallies = Mapping[tuple[str, bool], Tally]
"""By question id and whether retrieval was on."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """The gain from retrieval in a bucket."""

    bucket: str
    num_questions: int
    """Played in both modes."""
    solved_without: float
    solved_with: float
    gain: Estimate
    """The mean over questions of the difference; its interval counts questions, not samples."""
    searches_per_sample: float
    gain_per_search: float | None
    """None where nothing was searched."""


def level_of(pass_rate: float, levels: LevelOptions) -> Level:
    """The level of a question solved at this rate without retrieval."""
    if pass_rate >= levels.easy:
        return Level.EASY
    if pass_rate >= levels.medium:
        return Level.MEDIUM
    return Level.HARD if pass_rate >= levels.hard else Level.VERY_HARD


def wilson(num_correct: float, num_samples: int, confidence: float) -> Estimate:
    """The score interval: all p with |rate - p| <= z sqrt(p (1 - p) / n). Wilson 1927."""
    rate, z = num_correct / num_samples, NormalDist().inv_cdf((1 + confidence) / 2)
    shrunk = 1 + z * z / num_samples
    middle = (rate + z * z / (2 * num_samples)) / shrunk
    spread = sqrt(rate * (1 - rate) / num_samples + (z / (2 * num_samples)) ** 2) * z / shrunk
    low, high = max(middle - spread, 0.0), min(middle + spread, 1.0)
    return Estimate(rate, min(low, rate), max(high, rate))  # rounding must not exclude the rate


def relevel(
    questions: Sequence[Question], tallies: Tallies, levels: LevelOptions, confidence: float
) -> list[Question]:
    """The questions with measured levels; `meta` tells the rate, its interval and the old level."""
    measured = []
    for question in questions:
        tally = tallies[question.id, False]
        rate = wilson(tally.num_correct, tally.num_samples, confidence)
        meta = {
            **question.meta,
            "pass_rate": f"{rate.value:.4f}",
            "pass_rate_interval": f"{rate.low:.4f}..{rate.high:.4f}",
            "pass_rate_samples": str(tally.num_samples),
            "level_before": question.level.value,
        }
        measured.append(replace(question, level=level_of(rate.value, levels), meta=meta))
    return measured


def num_uncertain(
    questions: Sequence[Question], tallies: Tallies, levels: LevelOptions, confidence: float
) -> int:
    """Questions whose interval reaches into another level."""
    count = 0
    for question in questions:
        tally = tallies[question.id, False]
        rate = wilson(tally.num_correct, tally.num_samples, confidence)
        count += level_of(rate.low, levels) is not level_of(rate.high, levels)
    return count


def moves(before: Sequence[Question], after: Sequence[Question]) -> Counter[tuple[str, str]]:
    """How many questions went from which bucket to which."""
    return Counter((old.bucket, new.bucket) for old, new in zip(before, after, strict=True))


def gains(questions: Sequence[Question], tallies: Tallies, confidence: float) -> list[Gain]:
    """The gain from retrieval, by the buckets that the questions came with.

    Not by measured levels: those were chosen by the very rates that would be compared, and a
    question that was unlucky without retrieval would seem to gain from it.
    """
    by_bucket: dict[str, list[tuple[Tally, Tally]]] = {}
    levels = list(Level)
    for question in sorted(questions, key=lambda q: (q.task, levels.index(q.level))):
        pair = tallies.get((question.id, False)), tallies.get((question.id, True))
        if pair[0] is not None and pair[1] is not None:
            by_bucket.setdefault(question.bucket, []).append((pair[0], pair[1]))
    return [_gain(bucket, pairs, confidence) for bucket, pairs in by_bucket.items()]


def _gain(bucket: str, pairs: Sequence[tuple[Tally, Tally]], confidence: float) -> Gain:
    differences = [on.pass_rate - off.pass_rate for off, on in pairs]
    mean, z = fmean(differences), NormalDist().inv_cdf((1 + confidence) / 2)
    error = stdev(differences) / sqrt(len(pairs)) if len(pairs) > 1 else 1.0
    searches = fmean(on.num_searches / on.num_samples for _, on in pairs)
    return Gain(
        bucket=bucket,
        num_questions=len(pairs),
        solved_without=fmean(off.pass_rate for off, _ in pairs),
        solved_with=fmean(on.pass_rate for _, on in pairs),
        gain=Estimate(mean, max(mean - z * error, -1.0), min(mean + z * error, 1.0)),
        searches_per_sample=searches,
        gain_per_search=mean / searches if searches else None,
    )

"""Means with bootstrap confidence intervals, and what a benchmark's items add up to."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ur2.benchmarks.grading import BenchmarkItem
from ur2.benchmarks.options import AverageOptions, BenchmarkOptions, MetricName
from ur2.curriculum.difficulty import Estimate
from ur2.types import Status

NUM_RESAMPLES = 2000
CONFIDENCE = 0.95


def bootstrap(
    strata: Sequence[NDArray[np.float64]],
    rng: np.random.Generator,
    *,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """The mean of the strata's means, with a percentile interval (Efron 1979).

    Each stratum is resampled with replacement on its own, at its own size.

    Args:
        strata: the values of each stratum, none empty; one stratum gives a plain mean.
        rng: draws the resamples.
        num_resamples: how many.
        confidence: the share of resampled means inside the interval.
    """
    means = np.zeros(num_resamples)
    for values in strata:
        for number in range(num_resamples):  # one at a time: a large set's indices fit in memory
            means[number] += values[rng.integers(0, len(values), len(values))].mean()
    tail = (1 - confidence) / 2
    low, high = np.quantile(means / len(strata), [tail, 1 - tail])
    return Estimate(fmean(float(values.mean()) for values in strata), float(low), float(high))


def summarise(
    items: Sequence[BenchmarkItem], options: BenchmarkOptions, num_questions: int, seed: int
) -> dict[str, Any]:
    """The entry of one benchmark in `results.json`.

    Args:
        items: all that were played, at least one.
        options: the benchmark's.
        num_questions: questions in its file.
        seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    headline = options.metrics[0]
    parts = sorted(_by_part(items).items()) if options.parts is not None else []
    return {
        "title": options.title,
        "num_items": len(items),
        "num_questions": num_questions,
        "statuses": {status.value: _count(items)[status] for status in Status},
        "metrics": {name: _row(items, name, rng) for name in options.metrics},
        "parts": {part: _row(members, headline, rng) for part, members in parts},
        "searches_per_question": fmean(item.num_searches for item in items),
        "published": options.published,
    }


def average(
    results: Mapping[str, Mapping[str, Any]], options: AverageOptions
) -> dict[str, Any] | None:
    """The mean over benchmarks; None where one of them is missing or not judged.

    Its interval is that of n independent estimates, from their own: each bound lies
    sqrt(sum_i d_i^2) / n away, d_i the distance of estimate i from its bound (Zou and Donner 2008).
    """
    rows = [results[name]["metrics"][options.metric] for name in options.of if name in results]
    if len(rows) < len(options.of) or any(row["value"] is None for row in rows):
        return None
    value = fmean(row["value"] for row in rows)
    below = math.hypot(*(row["value"] - row["low"] for row in rows)) / len(rows)
    above = math.hypot(*(row["high"] - row["value"] for row in rows)) / len(rows)
    return {
        "of": options.of,
        "metric": options.metric,
        "value": value,
        "low": value - below,
        "high": value + above,
        "published": options.published,
    }


def _row(
    items: Sequence[BenchmarkItem], name: MetricName, rng: np.random.Generator
) -> dict[str, Any]:
    """One metric over items; all of them count.

    One that a judge gave no verdict on leaves the metric unjudged. Mathematics that was compared in
    vain counts 0, and is counted.
    """
    members = _by_part(items).values() if name == "macro_accuracy" else [items]
    values = [[item.metrics[name] for item in group] for group in members]
    num_unjudged = sum(value is None for group in values for value in group)
    if num_unjudged and name != "equivalence":
        return {"value": None, "note": f"not judged: {num_unjudged} of {len(items)}"}
    scores = [np.array([value or 0.0 for value in group]) for group in values]
    estimate = bootstrap(scores, rng)
    row = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return row | ({"num_compared_in_vain": num_unjudged} if num_unjudged else {})


def _by_part(items: Sequence[BenchmarkItem]) -> dict[str, list[BenchmarkItem]]:
    parts: dict[str, list[BenchmarkItem]] = defaultdict(list)
    for item in items:
        parts[item.part].append(item)
    return parts


def _count(items: Sequence[BenchmarkItem]) -> Counter[Status]:
    return Counter(item.status for item in items)

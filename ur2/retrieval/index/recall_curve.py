"""Recall and speed of an approximate index as its searches grow broader.

Shapes: _Q queries, _K results per query, _D width of a vector.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from ur2.retrieval.index.fusion import Rows
from ur2.retrieval.index.nearest import Matrix, VectorIndex

NEAR_PERFECT = 0.999


@dataclass(frozen=True, slots=True)
class Point:
    """The cost and the recall of a breadth."""

    breadth: int
    recall: float
    queries_per_s: float


Measure = Callable[[int], Point]


def ladder(breadths: range) -> list[int]:
    """The first and the last of `breadths`, and between them powers of 2 and thrice those."""
    first, last = breadths[0], breadths[-1]
    steps = sorted({2**n for n in range(32)} | {3 * 2**n for n in range(31)})
    return sorted({first, *(step for step in steps if step in breadths), last})


def choose(measure: Measure, breadths: Sequence[int], target: float) -> tuple[list[Point], Point]:
    """Climbs `breadths` until recall is near perfect, then halves the gap below `target`.

    Returns:
        What was measured, by breadth; and the narrowest that reaches `target`, or else the one of
        best recall.
    """
    points: dict[int, Point] = {}
    for breadth in breadths:
        points[breadth] = measure(breadth)
        if points[breadth].recall >= max(target, NEAR_PERFECT):
            break
    reached = [breadth for breadth in points if points[breadth].recall >= target]
    if not reached:
        best = max(points.values(), key=lambda point: (point.recall, -point.breadth))
        return list(points.values()), best
    enough = min(reached)
    short = max((breadth for breadth in points if breadth < enough), default=0)
    while enough - short > 1:
        middle = (enough + short) // 2
        points[middle] = measure(middle)
        if points[middle].recall >= target:
            enough = middle
        else:
            short = middle
    return [points[breadth] for breadth in sorted(points)], points[enough]


def measure_of(index: VectorIndex, query_QD: Matrix, exact_QK: Rows, threads: int) -> Measure:
    """Searches all queries as one batch, the faster of two runs, and compares with `exact_QK`."""

    def measure(breadth: int) -> Point:
        took_s = []
        for _ in range(2):
            started_s = time.perf_counter()
            _, row_QK = index.search(
                query_QD, exact_QK.shape[1], breadth=breadth, num_threads=threads
            )
            took_s.append(time.perf_counter() - started_s)
        return Point(breadth, recall(row_QK, exact_QK), len(query_QD) / min(took_s))

    return measure


def recall(row_QK: Rows, exact_QK: Rows) -> float:
    """Mean over queries of |found ∩ exact| / |exact|."""
    found = (row_QK[:, :, None] == exact_QK[:, None, :]).any(axis=1)
    return float(found.mean())


def plot(points: Sequence[Point], chosen: Point, target: float, k: int, path: Path) -> None:
    """Recall and speed over breadth, as a PNG."""
    with mpl.rc_context({"axes.spines.top": False, "savefig.dpi": 120}):
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes: Any = figure.subplots()
        breadths = [point.breadth for point in points]
        axes.plot(breadths, [point.recall for point in points], "o-", label=f"recall@{k}")
        axes.axhline(target, linestyle=":", color="grey", label=f"target {target:g}")
        axes.plot(chosen.breadth, chosen.recall, "s", color="black", label="chosen")
        axes.set(xscale="log", xlabel="breadth of a search", ylabel=f"recall@{k}")
        speed: Any = axes.twinx()
        speed.plot(breadths, [point.queries_per_s for point in points], "--", color="tab:orange")
        speed.set(yscale="log", ylabel="queries/s (dashed)")
        axes.legend(loc="lower right")
        partial = path.with_name(f".{path.name}")
        figure.savefig(partial, format="png")
        partial.replace(path)

"""results.md: what was measured, beside what others published."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ur2.benchmarks.statistics import CONFIDENCE, NUM_RESAMPLES
from ur2.types import Status


def markdown(results: Mapping[str, Any]) -> str:
    """The page for a `results.json`; all numbers in percent."""
    benchmarks = results["benchmarks"]
    systems = _systems(benchmarks)
    scores = [row for one in benchmarks.values() for row in _score_rows(one, systems)]
    scores += [_average_row(one, systems) for one in results["averages"].values()]
    search = "searches allowed" if results["search"] else "no searches"
    return "\n".join(
        [
            f"# Evaluation of {results['checkpoint']}",
            "",
            f"Engine {results['engine']}, temperature {results['temperature']:g}, top_p "
            f"{results['top_p']:g}, top_k {results['top_k']}, seed {results['seed']}, {search}. "
            f"Percent, with {CONFIDENCE:.0%} bootstrap intervals ({NUM_RESAMPLES:,} resamples). "
            "Every question counts, however its episode ended. The other columns are published "
            "numbers.",
            "",
            *_table(["benchmark", "questions", "metric", "this run", *systems], scores),
            "",
            *_table(
                [
                    "benchmark",
                    *(_words(status.value) for status in Status),
                    "searches per question",
                ],
                [_status_row(one) for one in benchmarks.values()],
            ),
            "",
        ]
    )


def _systems(benchmarks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Everyone with a published number, in order of appearance."""
    return list(dict.fromkeys(name for one in benchmarks.values() for name in one["published"]))


def _score_rows(one: Mapping[str, Any], systems: Sequence[str]) -> Iterator[list[str]]:
    """A row per metric, then one per part of the first metric."""
    played, known = one["num_items"], one["num_questions"]
    count = str(played) if played == known else f"first {played} of {known}"
    headline = _words(next(iter(one["metrics"])))
    rows = [(key, _words(key), row) for key, row in one["metrics"].items()]
    rows += [(key, f"{headline}: {key}", row) for key, row in one["parts"].items()]
    for key, label, row in rows:
        published = (one["published"].get(system, {}).get(key) for system in systems)
        yield [one["title"], count, label, _estimate(row), *map(_percent, published)]


def _average_row(one: Mapping[str, Any], systems: Sequence[str]) -> list[str]:
    published = (one["published"].get(system) for system in systems)
    return [
        f"mean of {', '.join(one['of'])}",
        "",
        _words(one["metric"]),
        _estimate(one),
        *map(_percent, published),
    ]


def _status_row(one: Mapping[str, Any]) -> list[str]:
    counts = [str(one["statuses"][status.value]) for status in Status]
    return [one["title"], *counts, f"{one['searches_per_question']:.2f}"]


def _estimate(row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return str(row["note"])
    in_vain = row.get("num_compared_in_vain", 0)
    note = f", {in_vain} compared in vain" if in_vain else ""
    return f"{100 * row['value']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]{note}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]

"""results.json and results.md from the items of finished benchmarks."""

from collections.abc import Mapping, Sequence
from typing import Any

from ur2.benchmarks.options import AverageOptions
from ur2.benchmarks.runner import Benchmark
from ur2.benchmarks.statistics import average, summarise
from ur2.benchmarks.store import EvaluationFolder
from ur2.benchmarks.table import markdown


def publish(
    store: EvaluationFolder,
    benchmarks: Sequence[Benchmark],
    averages: Mapping[str, AverageOptions],
    facts: Mapping[str, Any],
    *,
    seed: int,
) -> str:
    """Writes the results of every finished benchmark, beside those found there; returns the table.

    Args:
        store: the folder.
        benchmarks: of this evaluation; unfinished ones are left out.
        averages: means to report where all their benchmarks are there.
        facts: what was evaluated and how, as the heading of the table names it.
        seed: of the resampling.
    """
    found = store.read_results()
    for benchmark in benchmarks:
        items = store.read_items(benchmark.name, benchmark.questions)
        played = [items[q.id] for q in benchmark.played if q.id in items]
        if len(played) == len(benchmark.played):
            found[benchmark.name] = summarise(
                played, benchmark.options, len(benchmark.questions), seed
            )
    means = {name: average(found, options) for name, options in averages.items()}
    results = {
        **facts,
        "benchmarks": found,
        "averages": {name: mean for name, mean in means.items() if mean is not None},
    }
    table = markdown(results)
    store.write_results(results, table)
    return table

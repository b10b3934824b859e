from dataclasses import asdict

import numpy as np
import pytest

from ur2.benchmarks.grading import BenchmarkItem
from ur2.benchmarks.options import AverageOptions, BenchmarkOptions
from ur2.benchmarks.statistics import average, bootstrap, summarise
from ur2.benchmarks.table import markdown
from ur2.types import Status


def item(number: int, part: str, value: float) -> BenchmarkItem:
    return BenchmarkItem(
        id=str(number),
        part=part,
        question="?",
        golds=("A",),
        status=Status.ANSWERED,
        answer="A",
        metrics={"macro_accuracy": value, "accuracy": value},
        queries=(),
        num_searches=1,
        num_failed_searches=0,
        transcript=(),
    )


def test_intervals_cover_the_true_mean_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        values = (rng.random(150) < 0.3).astype(np.float64)
        estimate = bootstrap([values], rng, num_resamples=300)
        assert estimate.low <= estimate.value <= estimate.high
        covered += estimate.low <= 0.3 <= estimate.high
    assert 0.90 <= covered / 200 <= 0.99


def test_intervals_agree_with_the_normal_ones_on_a_large_set():
    values = (np.random.default_rng(1).random(2000) < 0.4).astype(np.float64)
    estimate = bootstrap([values], np.random.default_rng(2))
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.004)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.004)


def test_the_same_seed_gives_the_same_interval():
    values = [np.array([0.0, 1.0, 1.0, 0.0, 1.0])]
    first, second = (bootstrap(values, np.random.default_rng(3)) for _ in range(2))
    assert first == second


MACRO = BenchmarkOptions(
    title="M|C",
    file="f",
    task="choice",
    metrics=("macro_accuracy", "accuracy"),
    parts="subject",
    published={"A system": {"macro_accuracy": 50.0, "law": 12.5}},
)
ITEMS = [item(0, "law", 0.0), item(1, "law", 0.0), item(2, "law", 0.0), item(3, "art", 1.0)]


def test_macro_accuracy_is_the_mean_over_subjects_and_accuracy_over_questions():
    result = summarise(ITEMS, MACRO, 4, seed=0)
    assert result["metrics"]["macro_accuracy"]["value"] == 0.5
    assert result["metrics"]["accuracy"]["value"] == 0.25
    assert {part: row["value"] for part, row in result["parts"].items()} == {"law": 0, "art": 1}


def test_the_table_sets_published_numbers_beside_their_rows():
    result = summarise(ITEMS, MACRO, 10, seed=0)
    mean = average(
        {"m": result}, AverageOptions(of=("m",), metric="accuracy", published={"A system": 9})
    )
    sampling = {"temperature": 0.3, "top_p": 0.5, "top_k": 0}
    facts = {"checkpoint": "x", "engine": "hf", **sampling, "seed": 0, "search": False}
    page = markdown({**facts, "benchmarks": {"m": result}, "averages": {"one": mean}})
    assert "Engine hf, temperature 0.3, top_p 0.5, top_k 0, seed 0, no searches." in page
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert "| benchmark | questions | metric | this run | A system |" in lines
    assert any(
        line.startswith("| M/C | first 4 of 10 | macro accuracy | 50.0 [")
        and line.endswith("| 50.0 |")
        for line in lines
    )
    assert "| M/C | first 4 of 10 | macro accuracy: law | 0.0 [0.0, 0.0] | 12.5 |" in lines
    assert any(
        line.startswith("| mean of m |  | accuracy | 25.0 [") and line.endswith("| 9.0 |")
        for line in lines
    )
    assert "| M/C | 4 | 0 | 0 | 0 | 0 | 1.00 |" in lines


def test_an_average_waits_for_all_its_benchmarks():
    options = AverageOptions(of=("m", "n"), metric="accuracy")
    assert average({"m": summarise(ITEMS, MACRO, 4, seed=0)}, options) is None


def test_the_interval_of_an_average_is_that_of_resampling_its_benchmarks_together():
    rng = np.random.default_rng(4)
    sets = [(rng.random(size) < rate).astype(np.float64) for size, rate in [(500, 0.7), (125, 0.4)]]
    results = {
        name: {"metrics": {"accuracy": asdict(bootstrap([values], rng))}}
        for name, values in zip("mn", sets, strict=True)
    }
    mean = average(results, AverageOptions(of=("m", "n"), metric="accuracy"))
    together = bootstrap(sets, rng)
    assert mean["value"] == pytest.approx(together.value)
    assert (mean["low"], mean["high"]) == pytest.approx((together.low, together.high), abs=0.006)


def test_the_average_of_one_benchmark_has_its_interval():
    result = summarise(ITEMS, MACRO, 4, seed=0)
    mean = average({"m": result}, AverageOptions(of=("m",), metric="accuracy"))
    row = result["metrics"]["accuracy"]
    assert [mean[k] for k in ("value", "low", "high")] == pytest.approx(list(row.values()))

import pytest

from ur2.retrieval.client.stats import WINDOW, QueryStats


def test_quantiles_and_rates_are_of_the_recent_queries_only() -> None:
    stats = QueryStats()
    for _ in range(WINDOW):
        stats.add(9.0, failed=True, cached=True)
    assert (stats.failure_rate, stats.cache_hit_rate) == (1.0, 1.0)
    for number in range(WINDOW):
        stats.add(number / WINDOW, failed=number < WINDOW // 4)
    metrics = stats.metrics()
    assert metrics["latency_p50_s"] == pytest.approx(0.5, abs=0.01)
    assert metrics["latency_p99_s"] == pytest.approx(0.99, abs=0.01)
    assert metrics["failure_rate"] == pytest.approx(0.25)
    assert stats.cache_hit_rate == 0.0
    assert metrics["num_queries"] == 2 * WINDOW


def test_no_queries_are_no_failures() -> None:
    assert QueryStats().metrics() == {
        "latency_p50_s": 0.0,
        "latency_p99_s": 0.0,
        "failure_rate": 0.0,
        "num_queries": 0.0,
    }

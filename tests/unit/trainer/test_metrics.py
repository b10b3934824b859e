import pytest

from ur2.trainer.metrics import retrieval_metrics, step_metrics
from ur2.types import Level, SearchEvent

FOUND = SearchEvent(query="x", outcome="found", latency_s=0.2)
FAILED = SearchEvent(query="x", outcome="failed", latency_s=0.4)
REFUSED = SearchEvent(query="x", outcome="refused")


def test_accuracy_and_searches_are_kept_apart_by_bucket(group_of) -> None:  # type: ignore[no-untyped-def]
    groups = [
        group_of((1.0, 0.0), level=Level.EASY),
        group_of((1.0, 1.0), level=Level.HARD, searches=(FOUND, FOUND)),
    ]
    metrics = step_metrics(groups, version=0)
    assert metrics["accuracy/qa/easy"] == 0.5
    assert metrics["accuracy/qa/hard"] == 1.0
    assert metrics["search/per_question/qa/easy"] == 0.0
    assert metrics["search/per_question/qa/hard"] == 2.0
    assert metrics["reward/mean"] == 0.75
    assert metrics["reward/part/answer"] == 0.75


def test_groups_of_equal_rewards_have_zero_variance(group_of) -> None:  # type: ignore[no-untyped-def]
    metrics = step_metrics([group_of((1.0, 1.0)), group_of((1.0, 0.0))], version=0)
    assert metrics["group/zero_variance_fraction"] == 0.5


def test_staleness_counts_versions_between_sampling_and_update(group_of) -> None:  # type: ignore[no-untyped-def]
    groups = [group_of(version=4), group_of(version=2)]
    assert step_metrics(groups, version=4)["rollout/staleness_mean"] == pytest.approx(1.0)


def test_refused_searches_are_neither_searches_nor_failures(group_of) -> None:  # type: ignore[no-untyped-def]
    group = group_of(searches=(FOUND, FAILED, REFUSED))
    metrics = retrieval_metrics([group])
    assert metrics["retrieval/failure_rate"] == 0.5
    assert metrics["retrieval/requests"] == 4
    assert metrics["retrieval/latency_p50_s"] == pytest.approx(0.3)
    assert step_metrics([group], version=0)["search/mean"] == 2.0


def test_a_step_without_searches_has_no_failure_rate(group_of) -> None:  # type: ignore[no-untyped-def]
    assert retrieval_metrics([group_of()]) == {"retrieval/requests": 0.0}

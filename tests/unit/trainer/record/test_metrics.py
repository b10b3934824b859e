import pytest

from ur2.trainer.record.metrics import retrieval_metrics, step_metrics
from ur2.types import Level, Summary, ToolUse

FOUND = ToolUse(tool="search", arguments={"query": "x"}, outcome="found", latency_s=0.2)
FAILED = ToolUse(tool="search", arguments={"query": "x"}, outcome="failed", latency_s=0.4)
REFUSED = ToolUse(tool="search", arguments={"query": "x"}, outcome="refused")


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


def test_summaries_show_their_verdicts_fallbacks_tokens_and_cost(group_of) -> None:  # type: ignore[no-untyped-def]
    assert "retrieval/summary_tokens" not in retrieval_metrics([group_of(searches=(FOUND,))])
    kept = Summary(failed=False, num_tokens=0, cost_usd=0.0, latency_s=0.0)
    made = Summary(failed=False, num_tokens=100, cost_usd=0.5, latency_s=1.0)
    failed = Summary(failed=True, num_tokens=20, cost_usd=0.25, latency_s=1.0)
    searches = (
        ToolUse(tool="search", arguments={"query": "x"}, outcome="found", summary=made),
        ToolUse(tool="search", arguments={"query": "x"}, outcome="unsearchable", summary=kept),
        ToolUse(tool="search", arguments={"query": "x"}, outcome="found", summary=failed),
        FAILED,
        REFUSED,
    )
    group = group_of(searches=searches)
    count = len(group.group.trajectories)
    metrics = retrieval_metrics([group])
    assert metrics["retrieval/unsearchable_rate"] == 1 / 4
    assert metrics["retrieval/fallback_rate"] == pytest.approx(1 / 3)
    assert metrics["retrieval/summary_tokens"] == 120 * count
    assert metrics["retrieval/summary_cost_usd"] == 0.75 * count

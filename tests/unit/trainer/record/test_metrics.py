from dataclasses import replace

import pytest

from ur2.trainer.record.metrics import retrieval_metrics, step_metrics
from ur2.types import Level, Status, Summary, ToolUse

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


def test_a_tool_that_failed_is_counted_and_is_in_no_accuracy(group_of) -> None:  # type: ignore[no-untyped-def]
    ends = (Status.ANSWERED, Status.TOOL_FAILED, Status.TRUNCATED)
    metrics = step_metrics([group_of((1.0, 0.0, 0.0), statuses=ends)], version=0)
    assert metrics["accuracy/mean"] == metrics["accuracy/qa/easy"] == 0.5
    assert metrics["reward/mean"] == metrics["reward/part/answer"] == 0.5
    assert metrics["rollout/tool_failed_fraction"] == pytest.approx(1 / 3)
    all_failed = step_metrics([group_of((0.0,), statuses=ends[1:2])], version=0)
    assert not [key for key in all_failed if key.startswith(("accuracy/", "reward/"))]


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


def test_roles_are_told_apart_where_there_are_several(group_of) -> None:  # type: ignore[no-untyped-def]
    alone = group_of((1.0, 0.0))
    assert not [key for key in step_metrics([alone], version=0) if key.startswith("role/")]
    trajectory = alone.group.trajectories[0]
    prompt, wrote = trajectory.segments
    two = replace(trajectory, segments=(prompt, wrote, prompt, replace(wrote, role="judge")))
    score = replace(alone.scores[0], turns=(0.5, -1.0))
    group = replace(
        alone, group=replace(alone.group, trajectories=(two, two)), scores=(score, score)
    )
    metrics = step_metrics([group], version=0)
    assert {key: value for key, value in metrics.items() if key.startswith("role/")} == {
        "role/judge/policy_tokens_mean": 3.0,
        "role/judge/turn_reward_mean": -1.0,
        "role/judge/turns_mean": 1.0,
        "role/policy/policy_tokens_mean": 3.0,
        "role/policy/turn_reward_mean": 0.5,
        "role/policy/turns_mean": 1.0,
    }

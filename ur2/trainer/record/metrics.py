"""Numbers of one step, from the records of that step. Keys are those of DESIGN, section 6."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

import numpy as np

from ur2.algorithms.comparison import all_equal
from ur2.rollout.pool.seating import Loss
from ur2.trainer.feed import StepGroups
from ur2.types import Author, Level, Score, ScoredGroup, Status, ToolUse, Trajectory


def accuracy_by_bucket(groups: Sequence[ScoredGroup]) -> dict[str, float]:
    """Mean graded correctness per bucket, without trajectories whose tools failed.

    All others stay in the denominator, however they ended.
    """
    judged = [group.of_policy for group in groups]
    return _by_bucket(judged, lambda trajectory, score: score.correct)


def searches_by_bucket(groups: Sequence[ScoredGroup]) -> dict[str, float]:
    """Mean searches per trajectory, per bucket."""
    return _by_bucket(groups, lambda trajectory, score: float(trajectory.num_searches))


def step_metrics(groups: Sequence[ScoredGroup], *, version: int) -> dict[str, float]:
    """Rewards, accuracy, searches and endings of one step's groups.

    Rewards and accuracy are those of trajectories whose end the policy caused, and absent where
    there are none; searches and endings are those of all.

    Args:
        groups: what was sampled.
        version: the weights that are about to be updated; staleness counts from it.
    """
    trajectories = [t for g in groups for t in g.group.trajectories]
    return {
        **_reward_metrics([s for g in groups for s in g.of_policy.scores]),
        **{f"accuracy/{k}": v for k, v in accuracy_by_bucket(groups).items()},
        "search/mean": fmean(t.num_searches for t in trajectories),
        **{f"search/per_question/{k}": v for k, v in searches_by_bucket(groups).items()},
        "group/zero_variance_fraction": fmean(has_zero_variance(g.of_policy) for g in groups),
        **{
            f"rollout/{status.value}_fraction": fmean(t.status is status for t in trajectories)
            for status in Status
        },
        "rollout/policy_tokens_mean": fmean(t.num_policy_tokens for t in trajectories),
        "rollout/turns_mean": fmean(len(t.policy_texts) for t in trajectories),
        "rollout/staleness_mean": _staleness(trajectories, version),
        **_by_role(groups),
        **_explored(groups),
    }


def _reward_metrics(scores: Sequence[Score]) -> dict[str, float]:
    if not scores:
        return {}
    names = sorted({name for score in scores for name in score.parts})
    return {
        "reward/mean": fmean(s.total for s in scores),
        **{f"reward/part/{n}": fmean(s.parts.get(n, 0.0) for s in scores) for n in names},
        "reward/unscored_fraction": fmean(s.unscored for s in scores),
        "accuracy/mean": fmean(s.correct for s in scores),
    }


def acceptance_metrics(step_groups: StepGroups, loss: Loss) -> dict[str, float]:
    """Accounts for all that was sampled: it is trained on, was rejected, or came to nothing.

    Args:
        step_groups: the groups of the step.
        loss: what was lost since the last step.
    """
    accepted, rejected = (
        num_sampled_tokens(step_groups.accepted),
        num_sampled_tokens(step_groups.rejected),
    )
    accepted_s, rejected_s = _played_s(step_groups.accepted), _played_s(step_groups.rejected)
    wasted, wasted_s = rejected + loss.num_tokens, rejected_s + loss.played_s
    return {
        "rollout/groups_rejected": float(len(step_groups.rejected)),
        "rollout/groups_given_up": float(step_groups.num_given_up),
        "rollout/rejected_token_fraction": rejected / max(accepted + rejected, 1),
        "rollout/accepted_tokens": float(accepted),
        "rollout/rejected_tokens": float(rejected),
        "rollout/lost_tokens": float(loss.num_tokens),
        "rollout/wasted_token_fraction": wasted / max(accepted + wasted, 1),
        "rollout/accepted_s": accepted_s,
        "rollout/rejected_s": rejected_s,
        "rollout/lost_s": loss.played_s,
        "rollout/wasted_time_fraction": wasted_s / ((accepted_s + wasted_s) or 1.0),
    }


def _played_s(groups: Iterable[ScoredGroup]) -> float:
    return sum((g.group.played_s for g in groups), 0.0)


def num_sampled_tokens(groups: Iterable[ScoredGroup]) -> int:
    """Tokens that the policy sampled."""
    return sum(t.num_policy_tokens for g in groups for t in g.group.trajectories)


def has_zero_variance(scored: ScoredGroup) -> bool:
    """Whether all samples of the group got the same reward."""
    return all_equal([score.total for score in scored.scores])


def _by_bucket(
    groups: Sequence[ScoredGroup], value: Callable[[Trajectory, Score], float]
) -> dict[str, float]:
    values: dict[str, list[float]] = defaultdict(list)
    for scored in groups:
        bucket = scored.group.assignment.question.bucket
        for trajectory, score in zip(scored.group.trajectories, scored.scores, strict=True):
            values[bucket].append(value(trajectory, score))
    return {bucket: fmean(values[bucket]) for bucket in sorted(values, key=by_difficulty)}


def by_difficulty(bucket: str) -> tuple[str, int]:
    """Sorts buckets by task, then from easy to very hard."""
    task, _, level = bucket.partition("/")
    return task, list(Level).index(Level(level))


def _by_role(groups: Sequence[ScoredGroup]) -> dict[str, float]:
    """Turns and tokens per trajectory, and reward per turn, by role; nothing where there is one."""
    turns: dict[str, list[tuple[int, float]]] = defaultdict(list)
    num_trajectories = 0
    for scored in groups:
        for trajectory, score in zip(scored.group.trajectories, scored.scores, strict=True):
            num_trajectories += 1
            written = [s for s in trajectory.segments if s.author is Author.POLICY]
            rewards = score.turns or (0.0,) * len(written)
            for segment, reward in zip(written, rewards, strict=True):
                turns[segment.role].append((len(segment.token_ids), reward))
    if len(turns) < 2:
        return {}
    metrics = {}
    for role, of_role in sorted(turns.items()):
        metrics[f"role/{role}/turns_mean"] = len(of_role) / num_trajectories
        metrics[f"role/{role}/policy_tokens_mean"] = sum(n for n, _ in of_role) / num_trajectories
        metrics[f"role/{role}/turn_reward_mean"] = fmean(reward for _, reward in of_role)
    return metrics


def _explored(groups: Sequence[ScoredGroup]) -> dict[str, float]:
    """Branches that explorers added, per group, and how well they ended; nothing without any."""
    pairs = [p for g in groups for p in zip(g.group.trajectories, g.scores, strict=True)]
    branches = [score for trajectory, score in pairs if trajectory.parent]
    if not branches:
        return {}
    return {
        "explore/branches_per_group": len(branches) / len(groups),
        "explore/accuracy": fmean(score.correct for score in branches),
        "explore/reward_mean": fmean(score.total for score in branches),
    }


def _staleness(trajectories: Iterable[Trajectory], version: int) -> float:
    """Mean age of the sampled tokens, in weight versions."""
    ages = [
        (version - run.version, run.num_tokens)
        for trajectory in trajectories
        for segment in trajectory.segments
        for run in segment.weight_versions
    ]
    tokens = sum(count for _, count in ages)
    return sum(age * count for age, count in ages) / tokens if tokens else 0.0


def retrieval_metrics(groups: Sequence[ScoredGroup]) -> dict[str, float]:
    """Latency (seconds) and failures of one step's searches; nothing where there were none."""
    searches = [
        search
        for scored in groups
        for trajectory in scored.group.trajectories
        for search in trajectory.searches
        if search.outcome != "refused"
    ]
    if not searches:
        return {"retrieval/requests": 0.0}
    p50, p99 = np.quantile([search.latency_s for search in searches], [0.5, 0.99])
    return {
        "retrieval/requests": float(len(searches)),
        "retrieval/latency_p50_s": float(p50),
        "retrieval/latency_p99_s": float(p99),
        "retrieval/failure_rate": fmean(search.outcome == "failed" for search in searches),
        **_summary_metrics(searches),
    }


def _summary_metrics(searches: Sequence[ToolUse]) -> dict[str, float]:
    """Tells what a summariser made of searches, and its tokens and cost; nothing without one."""
    summaries = [search.summary for search in searches if search.summary is not None]
    if not summaries:
        return {}
    return {
        "retrieval/unsearchable_rate": fmean(s.outcome == "unsearchable" for s in searches),
        "retrieval/fallback_rate": fmean(summary.failed for summary in summaries),
        "retrieval/summary_tokens": float(sum(summary.num_tokens for summary in summaries)),
        "retrieval/summary_cost_usd": sum(summary.cost_usd for summary in summaries),
    }

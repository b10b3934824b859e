import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ur2.algorithms.options import AlgorithmOptions
from ur2.policy.batch.microbatch import collate
from ur2.trainer.batching import make_batch, to_batch
from ur2.types import Batch, Sample, Status

ENDED, FAILED = Status.ANSWERED, Status.TOOL_FAILED


def test_only_tokens_of_the_policy_get_an_advantage(group_of) -> None:  # type: ignore[no-untyped-def]
    batch = to_batch([group_of((1.0, 0.0))], AlgorithmOptions(estimator="rloo"))
    good, bad = batch.samples
    np.testing.assert_allclose(good.advantages, [0, 0, 1, 1, 1])
    np.testing.assert_allclose(bad.advantages, [0, 0, -1, -1, -1])
    assert good.mask.tolist() == [False, False, True, True, True]
    np.testing.assert_allclose(good.sampler_logprobs, [0, 0, -0.1, -0.2, -0.3], rtol=1e-6)
    assert batch.num_policy_tokens == 6


def test_groups_have_their_own_baselines(group_of) -> None:  # type: ignore[no-untyped-def]
    groups = [group_of((1.0, 0.0)), group_of((101.0, 100.0))]
    batch = to_batch(groups, AlgorithmOptions(estimator="grpo"))
    first, second = batch.samples[:2], batch.samples[2:]
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one.advantages, other.advantages, rtol=1e-4)


def test_no_groups_make_an_empty_batch() -> None:
    assert to_batch([], AlgorithmOptions()).samples == ()


@pytest.mark.parametrize(
    ("rewards", "statuses", "left"),
    [
        ((1.0, 1.0, 0.0, 0.0), (ENDED, ENDED, FAILED, FAILED), (1.0, 1.0)),  # no signal at all
        ((1.0, 0.0, 0.0), (ENDED, ENDED, FAILED), (1.0, 0.0)),
        ((1.0, 0.0, 0.5), (ENDED, FAILED, FAILED), ()),  # nobody to compare it with
        ((1.0, 0.0), (FAILED, FAILED), ()),
    ],
)
def test_what_met_a_failing_tool_is_compared_with_nobody(group_of, rewards, statuses, left) -> None:  # type: ignore[no-untyped-def]
    found = to_batch([group_of(rewards, statuses=statuses)], AlgorithmOptions())
    alone = to_batch([group_of(left)] if left else [], AlgorithmOptions())
    assert found.num_policy_tokens == alone.num_policy_tokens
    for one, other in zip(found.samples, alone.samples, strict=True):
        np.testing.assert_array_equal(one.advantages, other.advantages)


def test_the_masked_statuses_are_a_choice(group_of) -> None:  # type: ignore[no-untyped-def]
    group = group_of((1.0, 0.0, -1.0), statuses=(ENDED, Status.TRUNCATED, FAILED))
    for masked, num_samples in (((), 3), ((Status.TRUNCATED,), 2), ((Status.TRUNCATED, FAILED), 0)):
        batch = to_batch([group], AlgorithmOptions(mask_statuses=masked))
        assert len(batch.samples) == num_samples, masked
    assert len(to_batch([group], AlgorithmOptions()).samples) == 2


class ScriptedSideModels:
    """Says the same of every token that the policy wrote in a sample, and notes who was asked.

    It reads samples as policy ranks do.
    """

    def __init__(
        self, *, logprob: float = 0.0, own: float = 0.0, values: Sequence[float] = ()
    ) -> None:
        self.logprob, self.own, self.value_per_sample = logprob, own, values
        self.asked: list[str] = []

    async def logprobs(self, samples: Sequence[Sample]) -> list[NDArray[np.float32]]:
        self.asked.append("policy")
        collate(samples, torch.device("cpu"))
        return [np.where(s.mask, self.own, 0.0).astype(np.float32) for s in samples]

    async def reference_logprobs(self, samples: Sequence[Sample]) -> list[NDArray[np.float32]]:
        self.asked.append("reference")
        collate(samples, torch.device("cpu"))
        return [np.where(s.mask, self.logprob, 0.0).astype(np.float32) for s in samples]

    async def values(self, samples: Sequence[Sample]) -> list[NDArray[np.float32]]:
        self.asked.append("critic")
        collate(samples, torch.device("cpu"))
        pairs = zip(samples, self.value_per_sample, strict=True)
        return [np.where(s.mask, value, 0.0).astype(np.float32) for s, value in pairs]


async def test_a_divergence_in_the_reward_is_the_samplers_from_the_reference(group_of) -> None:  # type: ignore[no-untyped-def]
    # log π − log π_ref = −.1 + .5, −.2 + .5, −.3 + .5: summed .9, times β = .5
    options = AlgorithmOptions(
        estimator="reinforce", kl_coef=0.5, kl_in="reward", kl_estimator="k1"
    )
    side_models = ScriptedSideModels(logprob=-0.5)
    batch, metrics = await make_batch([group_of((1.0, 0.0))], options, side_models)
    good, bad = batch.samples
    np.testing.assert_allclose(good.advantages, [0, 0, *[1 - 0.45] * 3], rtol=1e-6)
    np.testing.assert_allclose(bad.advantages, [0, 0, *[-0.45] * 3], rtol=1e-6)
    k3 = [math.exp(-x) - 1 + x for x in (0.4, 0.3, 0.2)]
    assert metrics == {"policy/kl_reference": pytest.approx(sum(k3) / 3)}
    assert side_models.asked == ["reference"]


async def test_the_divergence_is_the_policys_where_samples_are_drawn_at_other_temperatures(
    group_of,  # type: ignore[no-untyped-def]
) -> None:
    # log π − log π_ref = −.4 + .5 at three tokens: summed .3, times β = .5
    options = AlgorithmOptions(
        estimator="reinforce", kl_coef=0.5, kl_in="reward", kl_estimator="k1"
    )
    models = ScriptedSideModels(logprob=-0.5, own=-0.4)
    groups = [group_of((1.0, 0.0))]
    batch, metrics = await make_batch(groups, options, models, sampled_as_policy=False)
    np.testing.assert_allclose(batch.samples[0].advantages, [0, 0, *[1 - 0.15] * 3], rtol=1e-6)
    assert metrics == {"policy/kl_reference": pytest.approx(math.exp(-0.1) - 1 + 0.1, rel=1e-4)}
    assert models.asked == ["policy", "reference"]
    drawn = to_batch(groups, options).samples[0].sampler_logprobs
    np.testing.assert_array_equal(batch.samples[0].sampler_logprobs, drawn)


async def test_gae_measures_rewards_against_the_critic(group_of) -> None:  # type: ignore[no-untyped-def]
    side_models = ScriptedSideModels(values=(0.25, 0.25))
    options = AlgorithmOptions(estimator="gae", gamma=0.5)
    batch, metrics = await make_batch([group_of((1.0, 0.0))], options, side_models)
    good, bad = batch.samples
    np.testing.assert_allclose(good.advantages, [0, 0, 0.25 - 0.25, 0.5 - 0.25, 1 - 0.25])
    np.testing.assert_allclose(bad.advantages, [0, 0, -0.25, -0.25, -0.25])
    np.testing.assert_allclose(good.values, [0, 0, 0.25, 0.25, 0.25])
    assert metrics == {"critic/explained_variance": pytest.approx(0.0)}, "a constant"
    assert side_models.asked == ["critic"]


async def test_whitening_changes_what_the_policy_learns_and_not_what_the_critic_does(
    group_of,  # type: ignore[no-untyped-def]
) -> None:
    groups = [group_of((1.0, 0.0)), group_of((0.5, -2.0))]

    async def made(**options) -> tuple[Batch, dict[str, float]]:  # type: ignore[no-untyped-def]
        models = ScriptedSideModels(values=(0.25, 0.5, 0.0, -0.5))
        return await make_batch(groups, AlgorithmOptions(estimator="gae", **options), models)

    (plain, plain_metrics), (white, white_metrics) = await made(), await made(whiten=True)
    learned = np.concatenate([s.advantages[s.mask] for s in white.samples])
    earned = np.concatenate([s.advantages[s.mask] for s in plain.samples])
    np.testing.assert_allclose([learned.mean(), learned.std()], [0, 1], atol=1e-6)
    np.testing.assert_allclose(learned, (earned - earned.mean()) / earned.std(), rtol=1e-5)
    for one, other in zip(plain.samples, white.samples, strict=True):
        np.testing.assert_array_equal(one.returns, other.returns)
        np.testing.assert_allclose(one.returns, one.advantages + one.values)
        assert not other.advantages[~other.mask].any()
    assert plain_metrics == white_metrics


async def test_a_critic_that_is_half_right_explains_three_quarters(group_of) -> None:  # type: ignore[no-untyped-def]
    side_models = ScriptedSideModels(values=(0.5, 0.0))
    options = AlgorithmOptions(estimator="gae")
    _, metrics = await make_batch([group_of((1.0, 0.0))], options, side_models)
    assert metrics == {"critic/explained_variance": pytest.approx(0.75)}


@pytest.mark.parametrize("options", [AlgorithmOptions(), AlgorithmOptions(kl_coef=0.1)])
async def test_no_model_is_asked_that_the_advantages_do_not_need(group_of, options) -> None:  # type: ignore[no-untyped-def]
    side_models = ScriptedSideModels()
    groups = [group_of((1.0, 0.0))]
    batch, metrics = await make_batch(groups, options, side_models)
    assert side_models.asked == []
    assert metrics == {}
    for one, other in zip(batch.samples, to_batch(groups, options).samples, strict=True):
        np.testing.assert_array_equal(one.advantages, other.advantages)


async def test_no_model_is_asked_about_nothing() -> None:
    side_models = ScriptedSideModels()
    batch, metrics = await make_batch([], AlgorithmOptions(estimator="gae"), side_models)
    assert (batch.samples, metrics, side_models.asked) == ((), {}, [])

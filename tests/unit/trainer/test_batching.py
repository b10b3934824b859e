import numpy as np

from ur2.algorithms.options import AlgorithmOptions
from ur2.trainer.batching import to_batch


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

"""Losses, reductions, divergences and corrections against arrays worked by hand."""

import math

import pytest
import torch
from torch import Tensor

from ur2.algorithms.corrections import CORRECTIONS, mismatch
from ur2.algorithms.kl import KL_ESTIMATORS
from ur2.algorithms.losses import LOSSES, Clip
from ur2.algorithms.reductions import REDUCTIONS, Denominators


def ppo(ratios: list[float], advantages: list[float], clip: Clip) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, clipped, gradient with respect to the new logprob)."""
    logprob_N = torch.tensor(ratios).log().requires_grad_()
    loss_N, clipped_N = LOSSES["ppo_clip"](
        logprob_N, torch.zeros(len(ratios)), torch.tensor(advantages), clip
    )
    (gradient_N,) = torch.autograd.grad(loss_N.sum(), logprob_N)
    return loss_N.detach(), clipped_N, gradient_N


def test_ppo_clip_by_hand() -> None:
    ratios = [1.0, 1.5, 0.5, 1.5, 0.5, 1.25]
    advantages = [2.0, 1.0, 1.0, -1.0, -1.0, 1.0]
    loss, clipped, gradient = ppo(ratios, advantages, Clip(low=0.2, high=0.28))
    torch.testing.assert_close(loss, torch.tensor([-2.0, -1.28, -0.5, 1.5, 0.8, -1.25]))
    assert clipped.tolist() == [False, True, False, False, True, False]
    torch.testing.assert_close(gradient, torch.tensor([-2.0, 0.0, -0.5, 1.5, 0.0, -1.25]))


def test_dual_clip_bounds_the_loss_of_negative_advantages() -> None:
    loss, clipped, gradient = ppo([9.0, 2.0, 9.0], [-1.0, -1.0, 1.0], Clip(dual=3.0))
    torch.testing.assert_close(loss, torch.tensor([3.0, 2.0, -1.2]))
    assert clipped.tolist() == [True, False, True]
    torch.testing.assert_close(gradient, torch.tensor([0.0, 2.0, 0.0]))


def test_ppo_stays_finite_for_tokens_that_the_old_policy_never_chose() -> None:
    loss, _ = LOSSES["ppo_clip"](torch.zeros(1), torch.tensor([-1e4]), torch.tensor([-1.0]), Clip())
    assert loss.isfinite().all()


def test_on_policy_ppo_has_the_gradient_of_reinforce() -> None:
    advantage_N = torch.tensor([0.5, -2.0, 1.0])
    gradients = []
    for name in ("ppo_clip", "reinforce"):
        logprob_N = torch.tensor([-1.0, -2.0, -0.1], requires_grad=True)
        loss_N, clipped_N = LOSSES[name](logprob_N, logprob_N.detach(), advantage_N, Clip())
        gradients.append(torch.autograd.grad(loss_N.sum(), logprob_N)[0])
        assert not clipped_N.any()
    torch.testing.assert_close(gradients[0], gradients[1])


def test_reinforce_with_advantage_one_is_negative_log_likelihood() -> None:
    logprob_N = torch.tensor([-1.0, -2.5])
    loss_N, _ = LOSSES["reinforce"](logprob_N, torch.zeros(2), torch.ones(2), Clip())
    assert loss_N.tolist() == [1.0, 2.5]


LENGTHS = torch.tensor([1, 3, 0])
COUNTS = Denominators(num_tokens=4, num_sequences=2, norm_length=10)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("token_mean", [1 / 4, 1 / 4]),
        ("seq_mean_token_mean", [1 / 2, 1 / 6]),
        ("seq_mean_token_sum_norm", [1 / 20, 1 / 20]),
    ],
)
def test_reductions_by_hand(name: str, weights: list[float]) -> None:
    weight_B = REDUCTIONS[name](LENGTHS, COUNTS)
    torch.testing.assert_close(weight_B[:2], torch.tensor(weights))
    assert weight_B.isfinite().all()


@pytest.mark.parametrize("name", sorted(REDUCTIONS))
def test_microbatches_sum_to_the_whole_batch(name: str) -> None:
    length_B = torch.tensor([2, 5, 1, 4])
    counts = Denominators(num_tokens=12, num_sequences=4, norm_length=8)
    whole = REDUCTIONS[name](length_B, counts)
    parts = torch.cat([REDUCTIONS[name](part, counts) for part in length_B.split([1, 3])])
    assert torch.equal(whole, parts)


def test_kl_estimators_by_hand() -> None:
    log_ratio = torch.tensor([math.log(2.0), 0.0, -math.log(2.0)])
    ln2 = math.log(2.0)
    expected = {
        "k1": [ln2, 0.0, -ln2],
        "k2": [ln2**2 / 2, 0.0, ln2**2 / 2],
        "k3": [0.5 - 1 + ln2, 0.0, 2 - 1 - ln2],
    }
    for name, values in expected.items():
        torch.testing.assert_close(KL_ESTIMATORS[name](log_ratio), torch.tensor(values))
    assert set(expected) == set(KL_ESTIMATORS)


def test_k1_and_k3_average_to_the_exact_divergence() -> None:
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.3, 0.3, 0.4])
    log_ratio = (p / q).log()
    exact = (p * log_ratio).sum()
    for name in ("k1", "k3"):
        torch.testing.assert_close((p * KL_ESTIMATORS[name](log_ratio)).sum(), exact)


def test_truncated_importance_sampling_by_hand() -> None:
    delta_N = torch.tensor([0.0, math.log(1.5), math.log(5.0), -math.log(4.0), 1e4])
    weight_N = CORRECTIONS["tis"](delta_N, 2.0)
    torch.testing.assert_close(weight_N, torch.tensor([1.0, 1.5, 2.0, 0.25, 2.0]))
    assert CORRECTIONS["none"](delta_N, 2.0).tolist() == [1.0] * 5


def test_mismatch_is_zero_for_equal_probabilities_and_k3_otherwise() -> None:
    kl_N, ratio_N = mismatch(torch.tensor([0.0, math.log(3.0)]))
    torch.testing.assert_close(kl_N, torch.tensor([0.0, 3.0 - 1.0 - math.log(3.0)]))
    torch.testing.assert_close(ratio_N, torch.tensor([1.0, 3.0]))

"""Losses, reductions, divergences and corrections against arrays worked by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ur2.algorithms.corrections import CORRECTIONS, Bounds, mismatch
from ur2.algorithms.kl import KL_ESTIMATORS
from ur2.algorithms.losses import LOSSES, Clip
from ur2.algorithms.reductions import REDUCTIONS, Denominators
from ur2.algorithms.sequences import Sequences
from ur2.algorithms.values import clipped_value

RATIO_LOSSES = ("ppo_clip", "gspo", "cispo")


def sequences_of(*lengths: int) -> Sequences:
    """Sequences whose tokens follow one another."""
    length_B = torch.tensor(lengths)
    return Sequences(
        sequence_N=torch.repeat_interleave(torch.arange(len(lengths)), length_B), length_B=length_B
    )


def surrogate(
    name: str, log_ratios: list[float], advantages: list[float], sequences: Sequences, clip: Clip
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, clipped, gradient with respect to the new logprob, which is -1 everywhere)."""
    logprob_N = torch.full((len(log_ratios),), -1.0, requires_grad=True)
    old_N = -1.0 - torch.tensor(log_ratios)
    loss_N, clipped_N = LOSSES[name].compute(
        logprob_N, old_N, torch.tensor(advantages), sequences, clip
    )
    (gradient_N,) = torch.autograd.grad(loss_N.sum(), logprob_N)
    return loss_N.detach(), clipped_N, gradient_N


def ppo(ratios: list[float], advantages: list[float], clip: Clip) -> tuple[Tensor, Tensor, Tensor]:
    log_ratios = [math.log(ratio) for ratio in ratios]
    return surrogate("ppo_clip", log_ratios, advantages, sequences_of(len(ratios)), clip)


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


def test_gspo_by_hand() -> None:
    # sequence ratios: sqrt(1.5 · .96) = 1.2 (above 1.1, A > 0: clipped), 2 (A < 0: free), and
    # a one-token 0.95 within bounds
    log_ratios = [math.log(1.5), math.log(0.96), math.log(4.0), 0.0, math.log(0.95)]
    advantages = [1.0, 1.0, -1.0, -1.0, 3.0]
    clip = Clip(low=0.1, high=0.1)
    loss, clipped, gradient = surrogate("gspo", log_ratios, advantages, sequences_of(2, 2, 1), clip)
    torch.testing.assert_close(loss, torch.tensor([-1.1, -1.1, 2.0, 2.0, -2.85]))
    assert clipped.tolist() == [True, True, False, False, False]
    torch.testing.assert_close(gradient, torch.tensor([0.0, 0.0, 2.0, 2.0, -2.85]))


def test_gspo_has_the_gradient_of_the_sequence_objective() -> None:
    """d/dθ of −s·A averaged over sequences, by autograd through the whole ratio (eq. 5)."""
    lengths, advantage_B = (3, 1, 4), torch.tensor([1.5, -0.5, 1.0])
    sequences = sequences_of(*lengths)
    old_N = -torch.rand(8, generator=torch.Generator().manual_seed(0))
    logprob_N = (old_N + 0.1 * torch.linspace(-1, 1, 8)).requires_grad_()
    ratio_B = torch.stack([part.mean() for part in (logprob_N - old_N).split(lengths)]).exp()
    (expected_N,) = torch.autograd.grad(-(ratio_B * advantage_B).mean(), logprob_N)
    loss_N, clipped_N = LOSSES["gspo"].compute(
        logprob_N, old_N, advantage_B[sequences.sequence_N], sequences, Clip(low=0.9, high=9.0)
    )
    counts = Denominators(num_tokens=8, num_sequences=3, norm_length=1)
    weight_B = REDUCTIONS["seq_mean_token_mean"](sequences.length_B, counts)
    loss = (loss_N * weight_B[sequences.sequence_N]).sum()
    torch.testing.assert_close(loss, -(ratio_B * advantage_B).mean())
    torch.testing.assert_close(torch.autograd.grad(loss, logprob_N)[0], expected_N)
    assert not clipped_N.any()


def test_cispo_by_hand() -> None:
    # ratio weights 1.28, .8 and 1.1 are constants: loss −w·A·logπ with logπ = −1, gradient −w·A
    log_ratios = [math.log(1.5), math.log(0.5), math.log(1.1)]
    loss, clipped, gradient = surrogate(
        "cispo", log_ratios, [1.0, 1.0, -2.0], sequences_of(3), Clip(low=0.2, high=0.28)
    )
    torch.testing.assert_close(loss, torch.tensor([1.28, 0.8, -2.2]))
    assert clipped.tolist() == [True, True, False]
    torch.testing.assert_close(gradient, torch.tensor([-1.28, -0.8, 2.2]))


def test_cispo_with_low_of_one_has_no_lower_bound() -> None:
    _, clipped, gradient = surrogate("cispo", [-9.0], [1.0], sequences_of(1), Clip(low=1.0))
    assert not clipped.any()
    assert gradient.item() == pytest.approx(-math.exp(-9.0))


@pytest.mark.parametrize("name", RATIO_LOSSES)
def test_tokens_that_the_old_policy_never_chose_stay_finite(name: str) -> None:
    loss, _, gradient = surrogate(name, [1e4, 1e4], [-1.0, 1.0], sequences_of(1, 1), Clip())
    assert loss.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", RATIO_LOSSES)
def test_on_policy_every_loss_has_the_gradient_of_reinforce(name: str) -> None:
    advantages = [0.5, -2.0, 1.0, 0.0]
    clip = Clip(dual=3.0) if name == "ppo_clip" else Clip()
    same = [0.0] * 4
    _, clipped, gradient = surrogate(name, same, advantages, sequences_of(1, 3), clip)
    _, _, expected = surrogate("reinforce", same, advantages, sequences_of(1, 3), clip)
    torch.testing.assert_close(gradient, expected)
    assert not clipped.any()


seeds = st.integers(0, 10_000)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, name=st.sampled_from(sorted(LOSSES)))
def test_order_of_tokens_and_company_of_other_sequences_do_not_matter(seed: int, name: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    sequences = sequences_of(2, 5, 1)
    logprob_N, old_N, advantage_N = torch.randn(3, 8, generator=generator)
    whole, clipped = LOSSES[name].compute(logprob_N, old_N, advantage_N, sequences, Clip())
    order = torch.randperm(8, generator=generator)
    mixed = Sequences(sequence_N=sequences.sequence_N[order], length_B=sequences.length_B)
    shuffled, _ = LOSSES[name].compute(
        logprob_N[order], old_N[order], advantage_N[order], mixed, Clip()
    )
    torch.testing.assert_close(shuffled, whole[order])
    alone, alone_clipped = LOSSES[name].compute(
        logprob_N[2:7], old_N[2:7], advantage_N[2:7], sequences_of(5), Clip()
    )
    torch.testing.assert_close(alone, whole[2:7])
    assert torch.equal(alone_clipped, clipped[2:7])


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_ppo_and_gspo_never_gain_from_leaving_the_bounds(seed: int) -> None:
    """The loss is at least that of the free ratio, and equal to it where nothing was clipped."""
    generator = torch.Generator().manual_seed(seed)
    log_ratio_N, advantage_N = torch.randn(2, 6, generator=generator)
    one_token_each = sequences_of(*[1] * 6)
    for name in ("ppo_clip", "gspo"):
        loss, clipped, gradient = surrogate(
            name, log_ratio_N.tolist(), advantage_N.tolist(), one_token_each, Clip()
        )
        free = -log_ratio_N.exp() * advantage_N
        assert (loss >= free - 1e-6 * (1 + free.abs())).all()
        torch.testing.assert_close(loss[~clipped], free[~clipped])
        assert (gradient[clipped] == 0).all()
        torch.testing.assert_close(gradient[~clipped], free[~clipped])


def test_reinforce_with_advantage_one_is_negative_log_likelihood() -> None:
    logprob_N = torch.tensor([-1.0, -2.5])
    loss_N, _ = LOSSES["reinforce"].compute(
        logprob_N, torch.zeros(2), torch.ones(2), sequences_of(2), Clip()
    )
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


@pytest.mark.parametrize("log_ratio", [-1e4, -95.0, -59.0, -20.0, 20.0, 59.0, 1e4])
def test_no_ratio_overflows_in_value_or_gradient(log_ratio: float) -> None:
    ones = torch.ones(1)
    for estimator in KL_ESTIMATORS.values():
        x = torch.tensor([log_ratio], requires_grad=True)
        divergence = estimator(x)
        (gradient,) = torch.autograd.grad(divergence.sum(), x)
        assert torch.isfinite(divergence).all()
        assert torch.isfinite(gradient).all()
    for facts in LOSSES.values():
        for advantage in (1.0, -1.0):
            x = torch.tensor([log_ratio], requires_grad=True)
            loss, _ = facts.compute(x, 0 * ones, advantage * ones, sequences_of(1), Clip())
            (gradient,) = torch.autograd.grad(loss.sum(), x)
            assert torch.isfinite(loss).all()
            assert torch.isfinite(gradient).all()
    for correct in CORRECTIONS.values():
        weight = correct(torch.tensor([log_ratio]), sequences_of(1), Bounds())
        assert torch.isfinite(weight).all()
    assert all(torch.isfinite(x).all() for x in mismatch(torch.tensor([log_ratio])))


@pytest.mark.parametrize("log_ratio", [-19.9, -3.0, 0.5, 40.0])
def test_k3_is_the_textbook_one_below_its_bound(log_ratio: float) -> None:
    x = torch.tensor([log_ratio], dtype=torch.float64)
    expected = math.exp(-log_ratio) - 1 + log_ratio
    torch.testing.assert_close(KL_ESTIMATORS["k3"](x), torch.tensor([expected]).double())


DELTAS = torch.tensor([0.0, math.log(1.5), math.log(5.0), -math.log(4.0), 1e4])


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("none", [1.0, 1.0, 1.0, 1.0, 1.0]),
        ("tis", [1.0, 1.5, 2.0, 0.25, 2.0]),
        ("icepop", [1.0, 1.5, 0.0, 0.0, 0.0]),
        ("sequence_mask", [1.0, 1.0, 1.0, 1.0, 0.0]),
    ],
)
def test_corrections_by_hand(name: str, weights: list[float]) -> None:
    # geometric means of the sequences: sqrt(1.5), sqrt(5 / 4), and one that is beyond all bounds
    weight_N = CORRECTIONS[name](DELTAS, sequences_of(2, 2, 1), Bounds(floor=0.5, cap=2.0))
    torch.testing.assert_close(weight_N, torch.tensor(weights))


def test_a_sequence_is_dropped_whole_for_being_too_likely_or_too_unlikely() -> None:
    delta_N = torch.tensor([0.3, 0.1, -0.3, -0.1, 0.3, -0.3])
    kept = CORRECTIONS["sequence_mask"](
        delta_N, sequences_of(2, 2, 2), Bounds(floor=math.exp(-0.15), cap=math.exp(0.15))
    )
    assert kept.tolist() == [0.0, 0.0, 0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("name", sorted(CORRECTIONS))
def test_where_sampler_and_trainer_agree_nothing_is_corrected(name: str) -> None:
    assert CORRECTIONS[name](torch.zeros(3), sequences_of(1, 2), Bounds()).tolist() == [1.0] * 3


def test_mismatch_is_zero_for_equal_probabilities_and_k3_otherwise() -> None:
    kl_N, ratio_N = mismatch(torch.tensor([0.0, math.log(3.0)]))
    torch.testing.assert_close(kl_N, torch.tensor([0.0, 3.0 - 1.0 - math.log(3.0)]))
    torch.testing.assert_close(ratio_N, torch.tensor([1.0, 3.0]))


def test_the_value_loss_takes_the_worse_of_free_and_held_values() -> None:
    # held values: 1.2 (clipped), 1.1, 0.8 (clipped, but the free one is worse)
    value_N, old_N = torch.tensor([1.5, 1.1, 0.5]), torch.ones(3)
    return_N = torch.tensor([2.0, 2.0, 1.0])
    loss_N, clipped_N = clipped_value(value_N, old_N, return_N, 0.2)
    torch.testing.assert_close(loss_N, torch.tensor([0.8**2, 0.9**2, 0.5**2]) / 2)
    assert clipped_N.tolist() == [True, False, False]
    free_N, none_N = clipped_value(value_N, old_N, return_N, None)
    torch.testing.assert_close(free_N, torch.tensor([0.5**2, 0.9**2, 0.5**2]) / 2)
    assert not none_N.any()


@pytest.mark.parametrize("temperature", [0.4, 0.7, 1.6])
def test_samples_of_another_temperature_teach_the_policys_own_gradient_once_corrected(
    temperature: float,
) -> None:
    # the mean over draws at the temperature, with each token of the vocabulary as often as it comes
    logit_V = torch.tensor([1.0, 0.0, -1.0, 0.5], requires_grad=True)
    worth_V = torch.tensor([0.3, -1.0, 2.0, 0.7])
    policy_V = torch.log_softmax(logit_V, -1)
    drawn_V = torch.log_softmax(logit_V.detach() / temperature, -1)
    ones = Sequences(sequence_N=torch.arange(4), length_B=torch.ones(4, dtype=torch.int64))

    def gradient(correction: str) -> Tensor:
        delta_V = (policy_V - drawn_V).detach()
        weight_V = CORRECTIONS[correction](delta_V, ones, Bounds(cap=1e6))
        objective = (drawn_V.exp() * weight_V * worth_V * policy_V).sum()
        return torch.autograd.grad(objective, logit_V, retain_graph=True)[0]

    (own,) = torch.autograd.grad((policy_V.exp() * worth_V).sum(), logit_V, retain_graph=True)
    torch.testing.assert_close(gradient("tis"), own)
    assert (gradient("none") - own).abs().max() > 0.05

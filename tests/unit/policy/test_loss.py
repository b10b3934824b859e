"""What a microbatch adds to loss, gradient and metrics, whatever the algorithm."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ur2.algorithms.options import AlgorithmOptions
from ur2.algorithms.reductions import Denominators
from ur2.policy.batch.microbatch import collate
from ur2.policy.loss import critic_loss, microbatch_loss
from ur2.types import Sample

CPU = torch.device("cpu")
COUNTS = Denominators(num_tokens=10, num_sequences=4, norm_length=100)

LOSSES: tuple[dict[str, Any], ...] = (
    {"loss": "ppo_clip", "dual_clip": 3.0},
    {"loss": "gspo", "clip_low": 0.1, "clip_high": 0.1},
    {"loss": "cispo"},
    {"loss": "reinforce"},
)
CORRECTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"correction": "tis"},
    {"correction": "icepop", "correction_floor": 0.8, "correction_cap": 1.2},
    {"correction": "sequence_mask", "correction_floor": 0.9, "correction_cap": 1.1},
)
REDUCTIONS: tuple[dict[str, Any], ...] = (
    {"reduction": "token_mean"},
    {"reduction": "seq_mean_token_mean"},
    {"reduction": "seq_mean_token_sum_norm", "norm_length": 100},
)
DIVERGENCES: tuple[dict[str, Any], ...] = (
    {},
    {"kl_coef": 0.1},
    {"kl_coef": 0.5, "kl_estimator": "k2"},
)


def make_sample(name: str, pattern: str) -> Sample:
    """`p` is a policy token; documents and prompts (`.`) get numbers that must not be read."""
    mask = np.array([c == "p" for c in pattern])
    nothing = np.where(mask, 0.0, np.nan).astype(np.float32)
    return Sample(
        id=name,
        token_ids=np.zeros(len(pattern), dtype=np.int64),
        mask=mask,
        advantages=nothing,
        sampler_logprobs=nothing,
    )


def gradient_of(
    samples: Sequence[Sample], numbers: dict[str, Tensor], options: AlgorithmOptions
) -> Tensor:
    """Of the loss, with respect to the log-probability of each policy token."""
    inputs = collate(samples, CPU)
    inputs.advantage_N.copy_(numbers["advantage"])
    inputs.sampler_logprob_N.copy_(numbers["sampler"])
    logprob_N = numbers["new"].clone().requires_grad_()
    loss, _ = microbatch_loss(
        logprob_N,
        torch.zeros_like(logprob_N),
        inputs,
        numbers["old"],
        options,
        COUNTS,
        numbers["reference"] if options.kl_coef else None,
    )
    return torch.autograd.grad(loss, logprob_N)[0]


def random_numbers(num_tokens: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: -1.0 + 0.3 * torch.randn(num_tokens, generator=generator)
        for name in ("advantage", "sampler", "new", "old", "reference")
    }


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    loss=st.sampled_from(LOSSES),
    correction=st.sampled_from(CORRECTIONS),
    reduction=st.sampled_from(REDUCTIONS),
    divergence=st.sampled_from(DIVERGENCES),
    cut=st.integers(0, 4),
)
def test_any_split_into_microbatches_gives_the_same_gradient(
    seed: int,
    loss: dict[str, Any],
    correction: dict[str, Any],
    reduction: dict[str, Any],
    divergence: dict[str, Any],
    cut: int,
) -> None:
    options = AlgorithmOptions(**loss, **correction, **reduction, **divergence)
    samples = [make_sample(str(i), ".pp"[: 2 + i % 2] + ".." + "p" * (i + 1)) for i in range(4)]
    ends = np.cumsum([0, *(int(s.mask.sum()) for s in samples)])
    numbers = random_numbers(int(ends[-1]), seed)
    whole = gradient_of(samples, numbers, options)
    parts = [
        gradient_of(
            samples[first:last],
            {name: value[ends[first] : ends[last]] for name, value in numbers.items()},
            options,
        )
        for first, last in ((0, cut), (cut, 4))
        if first < last
    ]
    torch.testing.assert_close(torch.cat(parts), whole)


@pytest.mark.parametrize("loss", LOSSES[:3], ids=lambda loss: str(loss["loss"]))
@pytest.mark.parametrize("reduction", REDUCTIONS, ids=lambda r: str(r["reduction"]))
def test_before_the_first_step_every_loss_is_plain_policy_gradient(
    loss: dict[str, Any], reduction: dict[str, Any]
) -> None:
    samples = [make_sample("a", ".pp.p"), make_sample("b", "..p")]
    numbers = random_numbers(4, 0)
    numbers["old"] = numbers["new"]
    found = gradient_of(samples, numbers, AlgorithmOptions(**loss, **reduction))
    plain = gradient_of(samples, numbers, AlgorithmOptions(loss="reinforce", **reduction))
    torch.testing.assert_close(found, plain)
    assert found.abs().min() > 0


def test_a_missing_old_pass_means_the_weights_are_the_old_ones() -> None:
    inputs = collate([make_sample("x", ".pp")], CPU)
    logprob_N = torch.tensor([-1.0, -2.0])
    options = AlgorithmOptions(correction="tis")
    without, _ = microbatch_loss(logprob_N, torch.zeros(2), inputs, None, options, COUNTS)
    given, _ = microbatch_loss(logprob_N, torch.zeros(2), inputs, logprob_N, options, COUNTS)
    assert without == given


def test_divergence_from_the_reference_by_hand() -> None:
    # A = 0, so the loss is β·k: log π − log π_ref = ln 2, 0; k2 = ½ ln²2, gradient ln 2; 10 tokens
    inputs = collate([make_sample("x", ".pp")], CPU)
    logprob_N = torch.tensor([-1.0, -1.0], requires_grad=True)
    reference_N = torch.tensor([-1.0 - math.log(2.0), -1.0])
    loss, report = microbatch_loss(
        logprob_N,
        torch.zeros(2),
        inputs,
        None,
        AlgorithmOptions(kl_coef=0.5, kl_estimator="k2"),
        COUNTS,
        reference_N,
    )
    (gradient_N,) = torch.autograd.grad(loss, logprob_N)
    assert loss.item() == pytest.approx(0.5 * 0.5 * math.log(2.0) ** 2 / 10)
    assert gradient_N.tolist() == pytest.approx([0.5 * math.log(2.0) / 10, 0.0])
    assert report.sums["policy/kl_reference"].item() == pytest.approx(0.5 - 1 + math.log(2.0))


def test_the_correction_weighs_the_policy_gradient_and_not_the_divergence() -> None:
    samples, numbers = [make_sample("x", ".pp")], random_numbers(2, 0)
    numbers["sampler"] = numbers["old"] + 9.0
    dropped = AlgorithmOptions(correction="icepop", kl_coef=0.1)
    nothing_else = {**numbers, "advantage": torch.zeros(2)}
    torch.testing.assert_close(
        gradient_of(samples, numbers, dropped),
        gradient_of(samples, nothing_else, AlgorithmOptions(kl_coef=0.1)),
    )


def test_an_idle_rank_adds_nothing_to_metrics() -> None:
    inputs = collate([], CPU)
    one = torch.tensor([-3.0])
    options = AlgorithmOptions(kl_coef=0.1, correction="icepop", loss="gspo")
    _, report = microbatch_loss(one, one, inputs, None, options, COUNTS, one - 1)
    _, critic = critic_loss(one, one, one, inputs, AlgorithmOptions(estimator="gae"), COUNTS)
    for idle in (report, critic):
        added = {**idle.losses, **idle.sums, **idle.maxima}
        assert len(added) >= 3
        assert not any(value.any() for value in added.values())
        assert not idle.broken_B.any()


def test_a_loss_that_is_not_finite_poisons_its_gradient_and_names_its_sequence() -> None:
    inputs = collate([make_sample("fine", ".pp"), make_sample("broken", "..p")], CPU)
    inputs.advantage_N.fill_(1.0)
    logprob_N = torch.tensor([-1.0, -2.0, -math.inf], requires_grad=True)
    loss, report = microbatch_loss(
        logprob_N, torch.zeros(3), inputs, None, AlgorithmOptions(loss="reinforce"), COUNTS
    )
    (gradient_N,) = torch.autograd.grad(loss, logprob_N)
    assert not gradient_N.isfinite().any()
    assert report.broken_B.tolist() == [False, True]


def test_off_policy_metrics_by_hand() -> None:
    inputs = collate([make_sample("x", ".pp")], CPU)
    old_N = torch.tensor([-1.0, -1.0])
    new_N = torch.tensor([-1.0 + math.log(2.0), -1.0])
    inputs.sampler_logprob_N.copy_(torch.tensor([-1.0, -1.0 - math.log(4.0)]))
    inputs.advantage_N.fill_(1.0)
    loss, report = microbatch_loss(
        new_N, torch.tensor([0.5, 1.5]), inputs, old_N, AlgorithmOptions(correction="tis"), COUNTS
    )
    # ratio 2 is clipped to 1.2 and weighs 1; ratio 1 weighs min(4, 2); over 10 tokens
    assert loss.item() == pytest.approx(-(1.2 * 1 + 1 * 2) / 10)
    assert {key: value.item() for key, value in report.losses.items()} == {
        "policy/loss": pytest.approx(-(1.2 * 1 + 1 * 2) / 10)
    }
    assert {key: value.item() for key, value in report.sums.items()} == pytest.approx(
        {
            "policy/entropy": 2.0,
            "policy/clip_fraction": 1.0,
            "policy/kl_old_new": 2.0 - 1.0 - math.log(2.0),
            "mismatch/kl": 4.0 - 1.0 - math.log(4.0),
        }
    )
    assert report.maxima["mismatch/is_max"].item() == pytest.approx(4.0)


def test_tokens_that_a_correction_dropped_are_counted() -> None:
    inputs = collate([make_sample("x", ".ppp")], CPU)
    inputs.sampler_logprob_N.copy_(torch.tensor([-1.0, -9.0, 5.0]))
    logprob_N = torch.full((3,), -1.0)
    options = AlgorithmOptions(correction="icepop")
    _, report = microbatch_loss(logprob_N, torch.zeros(3), inputs, None, options, COUNTS)
    assert report.sums["mismatch/dropped_fraction"] == 2.0


def test_the_critics_loss_by_hand() -> None:
    # returns 1.5 and 0; both values moved by more than .2: the first towards its return, so that
    # it stops learning, the second away from it
    inputs = collate([make_sample("x", ".pp")], CPU)
    old_N, return_N = torch.tensor([0.5, 1.0]), torch.tensor([1.5, 0.0])
    value_N = torch.tensor([0.9, 1.5], requires_grad=True)
    options = AlgorithmOptions(estimator="gae", value_clip=0.2)
    loss, report = critic_loss(value_N, old_N, return_N, inputs, options, COUNTS)
    # first: max(.6², .8²) = .64, clipped and without gradient; second: max(1.5², 1.2²) = 2.25
    assert loss.item() == pytest.approx(0.5 * (0.64 + 2.25) / 10)
    (gradient_N,) = torch.autograd.grad(loss, value_N)
    assert gradient_N.tolist() == pytest.approx([0.0, 0.15])
    assert report.sums["critic/clip_fraction"] == 1.0
    assert report.sums["critic/value_mean"].item() == pytest.approx(2.4)

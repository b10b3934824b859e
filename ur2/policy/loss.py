"""The loss of one microbatch, and what it adds to the metrics.

Shapes: _B sequences, _N trained tokens of the microbatch.
"""
# ruff: noqa: N815 - shape suffixes are the notation of the maths, in records too

from dataclasses import dataclass

import torch
from torch import Tensor

from ur2.algorithms.corrections import CORRECTIONS, Bounds, mismatch
from ur2.algorithms.kl import k3
from ur2.algorithms.losses import LOSSES, Clip
from ur2.algorithms.options import AlgorithmOptions
from ur2.algorithms.reductions import REDUCTIONS, Denominators
from ur2.algorithms.sequences import Sequences
from ur2.policy.microbatch import Inputs

SUMS = ("policy/loss", "policy/entropy", "policy/clip_fraction", "policy/kl_old_new", "mismatch/kl")
"""Metrics that add up over tokens, in the order of `Report.sums`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one microbatch adds to the metrics; tensors, so that nothing waits for the device."""

    sums: Tensor
    """(len(SUMS),) the loss already reduced, the others summed over tokens."""
    ratio_max: Tensor
    """The largest importance ratio between trainer and sampler."""
    broken_B: Tensor
    """True for sequences whose loss is not finite."""


def microbatch_loss(
    logprob_N: Tensor,
    entropy_N: Tensor,
    inputs: Inputs,
    old_logprob_N: Tensor | None,
    options: AlgorithmOptions,
    denominators: Denominators,
) -> tuple[Tensor, Report]:
    """This microbatch's part of the update's loss.

    Args:
        logprob_N: of the model being trained, with gradient.
        entropy_N: of its distribution at each token.
        inputs: the microbatch.
        old_logprob_N: of the weights before the rollout's first step; none where these are they.
        options: estimator, loss, reduction and correction.
        denominators: counts over the whole step, all ranks and microbatches.

    Returns:
        The loss, a scalar. Where it is not finite, neither is its gradient, so that the step is
        refused.
    """
    counted_N = (inputs.length_B > 0)[inputs.sequence_N].float()
    new_N = logprob_N.detach()
    old_N = new_N if old_logprob_N is None else old_logprob_N
    delta_N = old_N - inputs.sampler_logprob_N
    sequences = Sequences(sequence_N=inputs.sequence_N, length_B=inputs.length_B)
    clip = Clip(low=options.clip_low, high=options.clip_high, dual=options.dual_clip)
    loss_N, clipped_N = LOSSES[options.loss](logprob_N, old_N, inputs.advantage_N, sequences, clip)
    trusted = Bounds(floor=options.correction_floor, cap=options.correction_cap)
    correction_N = CORRECTIONS[options.correction](delta_N, sequences, trusted)
    weight_B = REDUCTIONS[options.reduction](inputs.length_B, denominators)
    loss_N = loss_N * correction_N * weight_B[inputs.sequence_N] * counted_N
    loss = loss_N.sum()
    kl_N, ratio_N = mismatch(delta_N)
    finite = loss.detach().isfinite()
    per_token = (entropy_N, clipped_N.float(), k3(old_N - new_N), kl_N)
    sums = [loss.detach(), *((value_N * counted_N).sum() for value_N in per_token)]
    broken_B = torch.zeros_like(inputs.length_B, dtype=torch.bool)
    broken_B[inputs.sequence_N[~loss_N.detach().isfinite()]] = True
    return loss * torch.where(finite, 1.0, torch.nan), Report(
        sums=torch.stack(sums).double(),
        ratio_max=(ratio_N * counted_N).max(),
        broken_B=broken_B,
    )

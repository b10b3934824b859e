"""One microbatch as tensors, and its loss.

Shapes: _B sequences, _T input tokens (right-padded), _N trained tokens of the microbatch.
"""
# ruff: noqa: N815 - shape suffixes are the notation of the maths, in records too

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ur2.algorithms.corrections import CORRECTIONS, mismatch
from ur2.algorithms.kl import k3
from ur2.algorithms.losses import LOSSES, Clip
from ur2.algorithms.options import AlgorithmOptions
from ur2.algorithms.reductions import REDUCTIONS, Denominators
from ur2.policy.packing import num_inputs
from ur2.types import Sample

SUMS = ("policy/loss", "policy/entropy", "policy/clip_fraction", "policy/kl_old_new", "mismatch/kl")
"""Metrics that add up over tokens, in the order of `Report.sums`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What the model reads and what is asked of it."""

    input_ids_BT: Tensor
    position_N: Tensor
    """Flat index into (B, T) of the token before each trained one."""
    target_N: Tensor
    advantage_N: Tensor
    sampler_logprob_N: Tensor
    sequence_N: Tensor
    """Which of the B sequences each trained token is in."""
    length_B: Tensor
    """Trained tokens of each sequence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one microbatch adds to the metrics; tensors, so that nothing waits for the device."""

    sums: Tensor
    """(len(SUMS),) the loss already reduced, the others summed over tokens."""
    ratio_max: Tensor
    """The largest importance ratio between trainer and sampler."""
    broken_B: Tensor
    """True for sequences whose loss is not finite."""


def collate(samples: Sequence[Sample], device: torch.device) -> Inputs:
    """Pads samples on the right; no sample gives one that reads a token and trains on nothing."""
    if not samples:
        return _idle(device)
    width = max(map(num_inputs, samples))
    input_ids_BT = np.zeros((len(samples), width), dtype=np.int64)
    targets = [np.flatnonzero(s.mask) for s in samples]
    for row, sample in enumerate(samples):
        count = num_inputs(sample)
        input_ids_BT[row, :count] = sample.token_ids[:count]
    positions = [row * width + target - 1 for row, target in enumerate(targets)]
    lengths = np.array([len(target) for target in targets])

    def chosen(arrays: Sequence[np.ndarray]) -> Tensor:
        values = [array[target] for array, target in zip(arrays, targets, strict=True)]
        return torch.from_numpy(np.concatenate(values)).to(device)

    return Inputs(
        input_ids_BT=torch.from_numpy(input_ids_BT).to(device),
        position_N=torch.from_numpy(np.concatenate(positions)).to(device),
        target_N=chosen([s.token_ids for s in samples]),
        advantage_N=chosen([s.advantages for s in samples]),
        sampler_logprob_N=chosen([s.sampler_logprobs for s in samples]),
        sequence_N=torch.from_numpy(np.repeat(np.arange(len(samples)), lengths)).to(device),
        length_B=torch.from_numpy(lengths).to(device),
    )


def _idle(device: torch.device) -> Inputs:
    """One token whose loss has weight 0: the rank takes part in collectives, and adds nothing."""
    zero = torch.zeros(1, dtype=torch.int64, device=device)
    return Inputs(
        input_ids_BT=zero[None],
        position_N=zero,
        target_N=zero,
        advantage_N=zero.float(),
        sampler_logprob_N=zero.float(),
        sequence_N=zero,
        length_B=zero,
    )


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
    clip = Clip(low=options.clip_low, high=options.clip_high, dual=options.dual_clip)
    loss_N, clipped_N = LOSSES[options.loss](logprob_N, old_N, inputs.advantage_N, clip)
    weight_B = REDUCTIONS[options.reduction](inputs.length_B, denominators)
    weight_N = weight_B[inputs.sequence_N] * counted_N
    loss_N = loss_N * weight_N * CORRECTIONS[options.correction](delta_N, options.correction_cap)
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

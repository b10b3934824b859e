"""The loss of one microbatch, and what it adds to the metrics.

Shapes: _B sequences, _N trained tokens of the microbatch.
"""
# ruff: noqa: N815 - shape suffixes are the notation of the maths, in records too

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ur2.algorithms.corrections import CORRECTIONS, Bounds, mismatch
from ur2.algorithms.kl import KL_ESTIMATORS, k3
from ur2.algorithms.losses import Clip, loss_facts
from ur2.algorithms.options import BOUNDED, AlgorithmOptions
from ur2.algorithms.reductions import REDUCTIONS, Denominators, Reduction, token_mean
from ur2.algorithms.sequences import Sequences
from ur2.algorithms.values import clipped_value
from ur2.plugins import blaming
from ur2.policy.batch.microbatch import MicrobatchInputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The part of one microbatch in the metrics; tensors, so that nothing waits for the device."""

    losses: Mapping[str, Tensor]
    """Parts of a step's loss, already reduced."""
    sums: Mapping[str, Tensor]
    """Sums over policy tokens."""
    maxima: Mapping[str, Tensor]
    """Largest values over policy tokens."""
    broken_B: Tensor
    """True for sequences whose loss is not finite."""


def microbatch_loss(
    logprob_N: Tensor,
    entropy_N: Tensor,
    inputs: MicrobatchInputs,
    old_logprob_N: Tensor | None,
    options: AlgorithmOptions,
    denominators: Denominators,
    reference_logprob_N: Tensor | None = None,
) -> tuple[Tensor, Report]:
    """This microbatch's part of the update's loss.

    Args:
        logprob_N: of the model being trained, with gradient.
        entropy_N: of its distribution at each token.
        inputs: the microbatch.
        old_logprob_N: of the weights before the rollout's first step; none where these are they.
        options: loss, reduction, correction and divergence.
        denominators: counts over the whole step, all ranks and microbatches.
        reference_logprob_N: of the reference model, where the loss has a divergence.

    Returns:
        The loss, a scalar. Where it is not finite, neither is its gradient, so that the step is
        refused.
    """
    new_N = logprob_N.detach()
    old_N = new_N if old_logprob_N is None else old_logprob_N
    delta_N = old_N - inputs.sampler_logprob_N
    sequences = Sequences(sequence_N=inputs.sequence_N, length_B=inputs.length_B)
    clip = Clip(low=options.clip_low, high=options.clip_high, dual=options.dual_clip)
    with blaming(f"algorithm.loss '{options.loss}'"):
        loss_N, clipped_N = loss_facts(options.loss).compute(
            logprob_N, old_N, inputs.advantage_N, sequences, clip
        )
    trusted = Bounds(floor=options.correction_floor, cap=options.correction_cap)
    correction_N = CORRECTIONS[options.correction](delta_N, sequences, trusted)
    loss_N = loss_N * correction_N
    kl_N, ratio_N = mismatch(delta_N)
    per_token = {
        "policy/entropy": entropy_N,
        "policy/clip_fraction": clipped_N.float(),
        "policy/kl_old_new": k3(old_N - new_N),
        "mismatch/kl": kl_N,
    }
    if options.correction in BOUNDED:
        per_token["mismatch/dropped_fraction"] = (correction_N == 0).float()
    if reference_logprob_N is not None:
        divergence = KL_ESTIMATORS[options.kl_estimator]
        loss_N = loss_N + options.kl_coef * divergence(logprob_N - reference_logprob_N)
        per_token["policy/kl_reference"] = k3(new_N - reference_logprob_N)
    reduction = REDUCTIONS[options.reduction]
    loss, report = _reduced("policy/loss", loss_N, per_token, inputs, reduction, denominators)
    ratio_max = (ratio_N * _counted(inputs)).max()
    return loss, replace(report, maxima={"mismatch/is_max": ratio_max})


def critic_loss(
    value_N: Tensor,
    old_value_N: Tensor,
    return_N: Tensor,
    inputs: MicrobatchInputs,
    options: AlgorithmOptions,
    denominators: Denominators,
) -> tuple[Tensor, Report]:
    """This microbatch's part of the critic's loss, a mean over tokens.

    Args:
        value_N: of the critic being trained, with gradient.
        old_value_N: those that the advantages were computed from.
        return_N: what came, measured from those.
        inputs: the microbatch.
        options: how far values may move.
        denominators: counts over the whole step, all ranks and microbatches.
    """
    loss_N, clipped_N = clipped_value(value_N, old_value_N, return_N, options.value_clip)
    per_token = {"critic/clip_fraction": clipped_N.float(), "critic/value_mean": value_N.detach()}
    return _reduced("critic/loss", loss_N, per_token, inputs, token_mean, denominators)


def _reduced(
    name: str,
    loss_N: Tensor,
    per_token: Mapping[str, Tensor],
    inputs: MicrobatchInputs,
    reduction: Reduction,
    denominators: Denominators,
) -> tuple[Tensor, Report]:
    """The weighed sum of a loss, poisoned if it is not finite, and its report."""
    counted_N = _counted(inputs)
    loss_N = loss_N * reduction(inputs.length_B, denominators)[inputs.sequence_N] * counted_N
    loss = loss_N.sum()
    finite = loss.detach().isfinite()
    broken_B = torch.zeros_like(inputs.length_B, dtype=torch.bool)
    broken_B[inputs.sequence_N[~loss_N.detach().isfinite()]] = True
    return loss * torch.where(finite, 1.0, torch.nan), Report(
        losses={name: loss.detach()},
        sums={key: (value_N * counted_N).sum() for key, value_N in per_token.items()},
        maxima={},
        broken_B=broken_B,
    )


def _counted(inputs: MicrobatchInputs) -> Tensor:
    """1 at tokens of samples, 0 where a rank only keeps the others company. (N,)."""
    return (inputs.length_B > 0)[inputs.sequence_N].float()

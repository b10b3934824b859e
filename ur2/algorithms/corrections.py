"""Weights that correct for sampling with other probabilities than the trainer computes.

Shapes: _N policy tokens of whole sequences; Δ = old_logprob − sampler_logprob, both at the sampled
token. Weights are constants (no gradient) and multiply the loss of their token; tokens of weight 0
still count in the denominators of the loss.

Departures from the papers:
1. Δ is clamped to ±20 before exp, so that an impossible token cannot overflow.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ur2.algorithms.kl import k3
from ur2.algorithms.ratios import bounded, ratio_of
from ur2.algorithms.sequences import Sequences


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The ratios between trainer and sampler that are trusted."""

    floor: float = 0.5
    cap: float = 2.0


Correction = Callable[[Tensor, Sequences, Bounds], Tensor]
"""(delta_N, sequences, bounds) -> weight_N."""


def none(delta_N: Tensor, sequences: Sequences, bounds: Bounds) -> Tensor:
    """1 everywhere. (N,) -> (N,)."""
    return torch.ones_like(delta_N)


def tis(delta_N: Tensor, sequences: Sequences, bounds: Bounds) -> Tensor:
    """min(e^Δ, cap): truncated importance sampling. Yao et al. 2025; Ionides 2008. (N,) -> (N,)."""
    return ratio_of(delta_N).clamp(max=bounds.cap)


def icepop(delta_N: Tensor, sequences: Sequences, bounds: Bounds) -> Tensor:
    """e^Δ where it is in [floor, cap], else 0. Ling Team 2025, "Every Step Evolves". (N,) -> (N,).

    A token that the two disagree on too much is left out, not bounded.
    """
    ratio_N = ratio_of(delta_N)
    return torch.where(_trusted(ratio_N, bounds), ratio_N, 0.0)


def sequence_mask(delta_N: Tensor, sequences: Sequences, bounds: Bounds) -> Tensor:
    """1 where exp(mean of Δ over the sequence) is in [floor, cap], else 0. (N,) -> (N,).

    The geometric mean of a sequence's ratios does not depend on its length; its logarithm is the k1
    estimate of −KL(sampler ‖ trainer) per token. Liu et al. 2025, "When Speed Kills Stability".
    """
    return _trusted(ratio_of(sequences.mean(delta_N)), bounds).to(delta_N.dtype)


def mismatch(delta_N: Tensor) -> tuple[Tensor, Tensor]:
    """Per token (k3 estimate of KL(sampler ‖ trainer), ratio e^Δ before truncation)."""
    bounded_N = bounded(delta_N.detach())
    return k3(-bounded_N), bounded_N.exp()


def _trusted(ratio_N: Tensor, bounds: Bounds) -> Tensor:
    return (ratio_N >= bounds.floor) & (ratio_N <= bounds.cap)


CORRECTIONS: Mapping[str, Correction] = {
    "icepop": icepop,
    "none": none,
    "sequence_mask": sequence_mask,
    "tis": tis,
}

"""Weights that correct for sampling with other probabilities than the trainer computes.

Shapes: _N policy tokens; Δ = old_logprob − sampler_logprob, both at the sampled token. Weights are
constants (no gradient) and multiply the loss of their token.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ur2.algorithms.kl import k3

MAX_LOG_RATIO = 20.0

Correction = Callable[[Tensor, float], Tensor]


def none(delta_N: Tensor, cap: float) -> Tensor:
    """1 everywhere. (N,) -> (N,)."""
    return torch.ones_like(delta_N)


def tis(delta_N: Tensor, cap: float) -> Tensor:
    """min(e^Δ, cap): truncated importance sampling. Yao et al. 2025; Ionides 2008. (N,) -> (N,)."""
    return delta_N.clamp(max=MAX_LOG_RATIO).exp().clamp(max=cap)


def mismatch(delta_N: Tensor) -> tuple[Tensor, Tensor]:
    """Per token (k3 estimate of KL(sampler ‖ trainer), ratio e^Δ before truncation)."""
    bounded_N = delta_N.detach().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return k3(-bounded_N), bounded_N.exp()


CORRECTIONS: Mapping[str, Correction] = {"none": none, "tis": tis}

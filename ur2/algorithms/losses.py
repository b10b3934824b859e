"""Policy losses per token. What is summed, and over what it is divided, is in `reductions`.

Shapes: _N policy tokens, in any order. The ratio is r = exp(logprob − old_logprob).

Departures from the papers:
1. The log-ratio is clamped to ±20 before exp, so that a stale token cannot overflow.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """How far the ratio may move before the gradient stops."""

    low: float = 0.2
    """Ratios below 1 - low are clipped."""
    high: float = 0.2
    """Ratios above 1 + high are clipped; DAPO raises it to 0.28."""
    dual: float | None = None
    """With negative advantages the objective never falls below dual·A; none when absent."""


Loss = Callable[[Tensor, Tensor, Tensor, Clip], tuple[Tensor, Tensor]]
"""(logprob_N, old_logprob_N, advantage_N, clip) -> (loss_N, clipped_N), clipped_N True where the
gradient was cut."""


def ppo_clip(
    logprob_N: Tensor, old_logprob_N: Tensor, advantage_N: Tensor, clip: Clip
) -> tuple[Tensor, Tensor]:
    """−min(r·A, clip(r, 1−low, 1+high)·A). Schulman et al. 2017, eq. 7. (N,) -> (N,).

    Asymmetric bounds: Yu et al. 2025 (DAPO), eq. 10. Dual clip, max(·, dual·A) for A < 0: Ye et al.
    2020, eq. 6.
    """
    ratio_N = (logprob_N - old_logprob_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    bounded_N = ratio_N.clamp(1.0 - clip.low, 1.0 + clip.high)
    free_N, held_N = ratio_N * advantage_N, bounded_N * advantage_N
    objective_N = torch.minimum(free_N, held_N)
    clipped_N = held_N < free_N
    if clip.dual is not None:
        floor_N = clip.dual * advantage_N
        below_N = (advantage_N < 0) & (objective_N < floor_N)
        objective_N = torch.where(below_N, floor_N, objective_N)
        clipped_N = clipped_N | below_N
    return -objective_N, clipped_N


def reinforce(
    logprob_N: Tensor, old_logprob_N: Tensor, advantage_N: Tensor, clip: Clip
) -> tuple[Tensor, Tensor]:
    """−A·log π. Williams 1992; with A = 1 the negative log-likelihood (SFT). (N,) -> (N,)."""
    return -advantage_N * logprob_N, torch.zeros_like(logprob_N, dtype=torch.bool)


LOSSES: Mapping[str, Loss] = {"ppo_clip": ppo_clip, "reinforce": reinforce}

"""Policy losses per token. What is summed, and over what it is divided, is in `reductions`.

Shapes: _N policy tokens of whole sequences, in any order. The ratio is
r = exp(logprob − old_logprob); sg stops the gradient.

Departures from the papers:
1. Log-ratios are clamped to ±20 before exp, so that a stale token cannot overflow.
2. GSPO is in its token form (eq. 14 with one advantage per sequence): the gradient is that of
   eq. 5 under the reduction `seq_mean_token_mean`, and the others may be chosen too.
3. CISPO has a lower bound beside its upper one; `low` of 1 is the paper's "none".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ur2.algorithms.ratios import ratio_of
from ur2.algorithms.sequences import Sequences
from ur2.plugins import find_facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """How far the ratio may move before the gradient stops."""

    low: float = 0.2
    """Ratios below 1 - low are clipped."""
    high: float = 0.2
    """Ratios above 1 + high are clipped; DAPO raises it to 0.28."""
    dual: float | None = None
    """With negative advantages the objective never falls below dual·A; none when absent."""


Loss = Callable[[Tensor, Tensor, Tensor, Sequences, Clip], tuple[Tensor, Tensor]]
"""(logprob_N, old_logprob_N, advantage_N, sequences, clip) -> (loss_N, clipped_N), clipped_N True
where the gradient was cut or its ratio bounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossFacts:
    """All that there is to know of a loss."""

    compute: Loss
    uses: frozenset[str] = frozenset()
    """Options of `algorithm` that change its result: `clip_low`, `clip_high`, `dual_clip`."""


def ppo_clip(
    logprob_N: Tensor, old_logprob_N: Tensor, advantage_N: Tensor, sequences: Sequences, clip: Clip
) -> tuple[Tensor, Tensor]:
    """−min(r·A, clip(r, 1−low, 1+high)·A). Schulman et al. 2017, eq. 7. (N,) -> (N,).

    Asymmetric bounds: Yu et al. 2025 (DAPO), eq. 10. Dual clip, max(·, dual·A) for A < 0: Ye et al.
    2020, eq. 6.
    """
    return _clipped(ratio_of(logprob_N - old_logprob_N), advantage_N, clip)


def gspo(
    logprob_N: Tensor, old_logprob_N: Tensor, advantage_N: Tensor, sequences: Sequences, clip: Clip
) -> tuple[Tensor, Tensor]:
    """`ppo_clip` of r = sg[s]·π/sg[π], s = exp(mean over the sequence of logprob − old_logprob).

    Zheng et al. 2025, eq. 5, 7 and 14. (N,) -> (N,).
    """
    log_ratio_N = sequences.mean((logprob_N - old_logprob_N).detach())
    return _clipped(ratio_of(log_ratio_N) * _unit(logprob_N), advantage_N, clip)


def cispo(
    logprob_N: Tensor, old_logprob_N: Tensor, advantage_N: Tensor, sequences: Sequences, clip: Clip
) -> tuple[Tensor, Tensor]:
    """−sg[clip(r, 1−low, 1+high)]·A·log π. MiniMax 2025 (M1), eq. 4-5. (N,) -> (N,).

    Every token keeps a gradient; only its weight is bounded.
    """
    ratio_N = ratio_of((logprob_N - old_logprob_N).detach())
    bounded_N = ratio_N.clamp(1.0 - clip.low, 1.0 + clip.high)
    return -bounded_N * advantage_N * logprob_N, bounded_N != ratio_N


def reinforce(
    logprob_N: Tensor, old_logprob_N: Tensor, advantage_N: Tensor, sequences: Sequences, clip: Clip
) -> tuple[Tensor, Tensor]:
    """−A·log π. Williams 1992; with A = 1 the negative log-likelihood (SFT). (N,) -> (N,)."""
    return -advantage_N * logprob_N, torch.zeros_like(logprob_N, dtype=torch.bool)


def _unit(logprob_N: Tensor) -> Tensor:
    """π/sg[π]: the value 1 with the gradient of log π."""
    return (logprob_N - logprob_N.detach()).exp()


def _clipped(ratio_N: Tensor, advantage_N: Tensor, clip: Clip) -> tuple[Tensor, Tensor]:
    """The pessimistic surrogate of a ratio, and where it has no gradient."""
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


def loss_facts(name: str) -> LossFacts:
    """The loss of a name, or of an import path.

    Raises:
        InputError: there is none.
    """
    return find_facts(
        name, LOSSES, LossFacts, lambda compute: LossFacts(compute=compute), key="algorithm.loss"
    )


LOSSES: Mapping[str, LossFacts] = {
    "cispo": LossFacts(compute=cispo, uses=frozenset({"clip_low", "clip_high"})),
    "gspo": LossFacts(compute=gspo, uses=frozenset({"clip_low", "clip_high"})),
    "ppo_clip": LossFacts(compute=ppo_clip, uses=frozenset({"clip_low", "clip_high", "dual_clip"})),
    "reinforce": LossFacts(compute=reinforce),
}

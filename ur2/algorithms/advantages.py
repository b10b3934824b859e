"""Advantage estimators. One signature, `estimate`; one function per estimator.

Shapes: _B sequences, _T tokens, _N policy tokens of the whole batch. A policy token is one where
mask_BT is True; r is the sequence's reward, g its prompt's group, β `kl_coef`.

All arithmetic runs in float64 over policy tokens only, so results depend on neither padding nor
summation order, and are returned as float32 with 0 outside the mask.

Departures from the papers:
1. Observation tokens (documents inside a trajectory) neither earn nor decay: γ counts policy
   tokens, and the return of a turn flows through the documents that follow it.
2. In the estimators that score whole sequences, a KL penalty is summed over the sequence and taken
   off its reward before the group's mean.
3. A group of one has no group-relative signal in GRPO and Dr. GRPO (advantage 0); where the
   baseline is a mean of others (RLOO) or the result is whitened over the batch
   (REINFORCE++-baseline), its baseline is 0.
4. Whitening divides by the standard deviation over n tokens, not n − 1; GAE's advantages are
   whitened only where `algorithm.whiten` says so, after the critic's returns were taken of them.
5. A trajectory may be several sequences, one per context. In a group's mean and standard deviation
   it counts once: its n sequences weigh 1/n each, and RLOO leaves all of them out.
"""
# ruff: noqa: N802, N815 - shape suffixes are the notation of the maths, in records too

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ur2.algorithms.comparison import Comparison
from ur2.errors import InputError
from ur2.plugins import blaming, find_facts

GROUP_STD_EPS = 1e-6
WHITEN_EPS = 1e-8


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """The input of every estimator; float64."""

    reward_B: Tensor
    earned_BT: Tensor
    """The reward where it was earned, 0 outside the mask; its sum over tokens is `reward_B`."""
    group_B: Tensor
    """Group number of each sequence, 0 ... number of groups - 1."""
    trajectory_B: Tensor
    """Trajectory number of each sequence within the batch's groups, 0 ... number - 1."""
    mask_BT: Tensor
    penalty_BT: Tensor
    """β·KL per token, 0 outside the mask."""
    value_BT: Tensor | None
    gamma: float
    lam: float

    @property
    def net_reward_B(self) -> Tensor:
        """The reward less the sequence's summed KL penalty."""
        return self.reward_B - self.penalty_BT.sum(dim=1)

    @property
    def comparison(self) -> Comparison:
        """Net rewards beside the others of their group."""
        return Comparison.of(self.net_reward_B, self.group_B, self.trajectory_B)

    @property
    def token_reward_BT(self) -> Tensor:
        """r_t = what was earned at t − β·KL_t."""
        return self.earned_BT - self.penalty_BT


Estimator = Callable[[Signals], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimatorFacts:
    """All that there is to know of an estimator."""

    compute: Estimator
    """Advantages (B, T) float64; what is outside the mask is ignored."""
    compares: Literal["group", "batch", "critic", "nothing"] = "nothing"
    """The measure of a reward: the other samples of its group (equal rewards then teach
    nothing), the tokens of the batch, a critic's values, or nothing."""
    uses: frozenset[str] = frozenset()
    """Options of `algorithm` that change its result: `gamma`, `lam`, `value_clip`, `whiten`."""


def estimate(
    name: str,
    reward_B: Tensor,
    group_B: Tensor,
    mask_BT: Tensor,
    kl_BT: Tensor | None = None,
    *,
    gamma: float = 1.0,
    kl_coef: float = 0.0,
    value_BT: Tensor | None = None,
    lam: float = 1.0,
    earned_BT: Tensor | None = None,
    trajectory_B: Tensor | None = None,
) -> Tensor:
    """The advantage of every policy token.

    Args:
        name: one of `ESTIMATORS`, or the import path of one.
        reward_B: (B,) reward of each sequence.
        group_B: (B,) which prompt each sequence answers; any integers.
        mask_BT: (B, T) True where the policy wrote the token.
        kl_BT: (B, T) divergence from the reference policy; none when absent.
        gamma: discount per policy token (`reinforce_pp`, `gae`).
        kl_coef: weight β of the KL penalty in the reward.
        value_BT: (B, T) the critic's values (`gae`).
        lam: λ of `gae`.
        earned_BT: (B, T) the reward where it was earned, which estimators of token rewards use;
            by default all of it at the last policy token.
        trajectory_B: (B,) which trajectory each sequence is a part of; by default one each.

    Returns:
        (B, T) float32, 0 outside the mask.

    Raises:
        InputError: `name` is not known, or `gae` has no values.
        ValueError: the shapes do not belong together.
        PluginError: an estimator of one's own failed.
    """
    facts = estimator_facts(name)
    own_B = [x for x in (reward_B, group_B, trajectory_B) if x is not None]
    _check_shapes(mask_BT, own_B, [x for x in (kl_BT, value_BT, earned_BT) if x is not None])
    mask_BT = mask_BT.bool()
    if earned_BT is None:
        last_BT = mask_BT & (mask_BT.flip(1).cumsum(1).flip(1) == 1)
        earned_BT = torch.where(last_BT, reward_B.double()[:, None], 0.0)
    if trajectory_B is None:
        trajectory_B = torch.arange(len(reward_B), device=mask_BT.device)
    reward_B = reward_B.to(torch.float64, copy=True)
    penalty_BT = torch.zeros(mask_BT.shape, dtype=torch.float64, device=mask_BT.device)
    if kl_BT is not None:
        penalty_BT[mask_BT] = kl_coef * kl_BT[mask_BT].double()
    signals = Signals(
        reward_B=reward_B,
        earned_BT=earned_BT.to(torch.float64, copy=True),
        trajectory_B=torch.unique(trajectory_B, return_inverse=True)[1],
        group_B=torch.unique(group_B, return_inverse=True)[1],
        mask_BT=mask_BT.clone(),
        penalty_BT=penalty_BT,
        value_BT=None if value_BT is None else value_BT.to(torch.float64, copy=True),
        gamma=gamma,
        lam=lam,
    )
    with blaming(f"algorithm.estimator '{name}'"):
        advantage_BT = facts.compute(signals)
        if advantage_BT.shape != mask_BT.shape:
            given = tuple(advantage_BT.shape)
            raise ValueError(f"advantages are {tuple(mask_BT.shape)}, not {given}")
        advantage_BT = torch.where(mask_BT, advantage_BT.detach(), 0.0).float()
        if not advantage_BT.isfinite().all():
            raise ValueError("an advantage is not finite")
    return advantage_BT


def estimator_facts(name: str) -> EstimatorFacts:
    """The estimator of a name, or of an import path.

    Raises:
        InputError: there is none.
    """
    return find_facts(
        name,
        ESTIMATORS,
        EstimatorFacts,
        lambda compute: EstimatorFacts(compute=compute),
        key="algorithm.estimator",
    )


def _check_shapes(mask_BT: Tensor, of_B: Sequence[Tensor], of_BT: Sequence[Tensor]) -> None:
    """Broadcasting would turn a missing sequence or token into wrong advantages."""
    size_B, size_BT = mask_BT.shape[:1], mask_BT.shape
    wrong = [x for x in of_B if x.shape != size_B] + [x for x in of_BT if x.shape != size_BT]
    if mask_BT.dim() != 2 or wrong:
        raise ValueError(
            f"the mask is (B, T), here {tuple(size_BT)}, rewards and groups are (B,), divergences "
            f"and values (B, T), not {', '.join(str(tuple(x.shape)) for x in wrong)}"
        )


def grpo(signals: Signals) -> Tensor:
    """A = (r − mean_g) / (std_g + 1e-6), std with n − 1. Shao et al. 2024, eq. 4. (B, T)."""
    group = signals.comparison
    variance_B = group.total(group.centred_B**2) / (group.size_B - 1).clamp(min=1)
    return _broadcast(group.centred_B / (variance_B.sqrt() + GROUP_STD_EPS), signals.mask_BT)


def dr_grpo(signals: Signals) -> Tensor:
    """A = r − mean_g; with reduction `seq_mean_token_sum_norm`. Liu et al. 2025. (B, T)."""
    return _broadcast(signals.comparison.centred_B, signals.mask_BT)


def rloo(signals: Signals) -> Tensor:
    """A = r − mean of the group's other rewards. Ahmadian et al. 2024, eq. 8. (B, T)."""
    group = signals.comparison
    # With c the distance from the group's mean and o that of the trajectory's own mean:
    # r − (n·mean − own) / (n − 1) = c + o / (n − 1)
    others_B = group.centred_B + group.own_centred_B / (group.size_B - 1).clamp(min=1)
    alone_B = torch.where(group.size_B > 1, others_B, signals.net_reward_B)
    return _broadcast(alone_B, signals.mask_BT)


def reinforce(signals: Signals) -> Tensor:
    """A = r. Williams 1992, without a baseline. (B, T)."""
    return _broadcast(signals.net_reward_B, signals.mask_BT)


def reinforce_pp(signals: Signals) -> Tensor:
    """A = whiten(G), G_t = Σ_{k≥t} γ^(policy tokens from t to k) r_k. Hu 2025, eq. 4-7. (B, T)."""
    return_BT = _discounted_sum(signals.token_reward_BT, signals.mask_BT, signals.gamma)
    return whiten(return_BT, signals.mask_BT)


def reinforce_pp_baseline(signals: Signals) -> Tensor:
    """A = whiten(r − mean_g), mean 0 for groups of one. Hu 2025, `-baseline` variant. (B, T)."""
    group = signals.comparison
    shaped_B = torch.where(group.size_B > 1, group.centred_B, signals.net_reward_B)
    return whiten(_broadcast(shaped_B, signals.mask_BT), signals.mask_BT)


def gae(signals: Signals) -> Tensor:
    """A_t = Σ_k (γλ)^k δ_{t+k}, δ_t = r_t + γ V_{t+1} − V_t over policy tokens. (B, T).

    Schulman et al. 2016, eq. 16.
    """
    if signals.value_BT is None:
        raise InputError("algorithm.estimator 'gae' needs a critic's values")
    delta_BT = signals.token_reward_BT - signals.value_BT
    delta_BT = delta_BT + signals.gamma * _next_policy_value(signals.value_BT, signals.mask_BT)
    return _discounted_sum(delta_BT, signals.mask_BT, signals.gamma * signals.lam)


def _broadcast(value_B: Tensor, mask_BT: Tensor) -> Tensor:
    return value_B[:, None].expand(mask_BT.shape)


def _discounted_sum(value_BT: Tensor, mask_BT: Tensor, discount: float) -> Tensor:
    """S_t = v_t + discount·S_u, u the next policy token after t. (B, T) -> (B, T).

    By doubling: after round k every entry holds the sum of its next 2^k terms.
    """
    sum_BL, taken_BL = _policy_tokens(value_BT, mask_BT)
    reach = 1
    while reach < sum_BL.shape[1]:
        sum_BL[:, :-reach] += discount**reach * sum_BL[:, reach:]
        reach *= 2
    return _in_place(sum_BL, taken_BL, mask_BT)


def _next_policy_value(value_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """The value at the next policy token, 0 after the last. (B, T) -> (B, T)."""
    value_BL, taken_BL = _policy_tokens(value_BT, mask_BT)
    next_BL = torch.zeros_like(value_BL)
    next_BL[:, :-1] = value_BL[:, 1:]
    return _in_place(next_BL, taken_BL, mask_BT)


def _policy_tokens(value_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Policy tokens only, moved to the left, and where they are. (B, T) -> (B, L) each."""
    length_B = mask_BT.sum(dim=1)
    width = int(length_B.max()) if len(length_B) else 0
    taken_BL = torch.arange(width, device=mask_BT.device) < length_B[:, None]
    value_BL = value_BT.new_zeros(taken_BL.shape)
    value_BL[taken_BL] = value_BT[mask_BT]
    return value_BL, taken_BL


def _in_place(value_BL: Tensor, taken_BL: Tensor, mask_BT: Tensor) -> Tensor:
    """Undoes `_policy_tokens`; 0 outside the mask. (B, L) -> (B, T)."""
    value_BT = value_BL.new_zeros(mask_BT.shape)
    value_BT[mask_BT] = value_BL[taken_BL]
    return value_BT


def whiten(value_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """(v − mean) / sqrt(variance + 1e-8) over the policy tokens of the batch. (B, T) -> (B, T)."""
    value_N = value_BT[mask_BT]
    if not value_N.numel():
        return value_BT
    centred_N = value_N - value_N[0]
    centred_N = centred_N - centred_N.mean()
    whitened_BT = torch.zeros_like(value_BT)
    whitened_BT[mask_BT] = centred_N / ((centred_N**2).mean() + WHITEN_EPS).sqrt()
    return whitened_BT


ESTIMATORS: Mapping[str, EstimatorFacts] = {
    "dr_grpo": EstimatorFacts(compute=dr_grpo, compares="group"),
    "gae": EstimatorFacts(
        compute=gae, compares="critic", uses=frozenset({"gamma", "lam", "value_clip", "whiten"})
    ),
    "grpo": EstimatorFacts(compute=grpo, compares="group"),
    "reinforce": EstimatorFacts(compute=reinforce),
    "reinforce_pp": EstimatorFacts(
        compute=reinforce_pp, compares="batch", uses=frozenset({"gamma"})
    ),
    "reinforce_pp_baseline": EstimatorFacts(compute=reinforce_pp_baseline, compares="group"),
    "rloo": EstimatorFacts(compute=rloo, compares="group"),
}

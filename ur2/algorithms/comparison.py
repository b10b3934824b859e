"""Sequences beside the others of their group.

Shapes: _B sequences. A trajectory may be several sequences, one per context: each then weighs one
over their number, so that a group's mean is over trajectories.

Rewards are sums of parts, so equal ones may differ in their last digits (0.1 + 0.2 and 0.3). What
is no larger than that is no signal, and must not be scaled up to one.
"""
# ruff: noqa: N815 - shape suffixes are the notation of the maths, in records too

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

EQUAL = 1e-6
"""Rewards of a group are equal if none is further than this from one of them, as a share of it
where it is larger than 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Rewards within their groups, in which each trajectory counts once."""

    group_B: Tensor
    weight_B: Tensor
    """1 / the sequences that the trajectory has in the group."""
    size_B: Tensor
    """Trajectories of each sequence's group."""
    centred_B: Tensor
    """The distance from the group's mean; exactly 0 where its rewards are all equal."""
    own_centred_B: Tensor
    """The mean of it over the trajectory's sequences in the group."""

    @classmethod
    def of(cls, reward_B: Tensor, group_B: Tensor, trajectory_B: Tensor) -> Self:
        """Compares rewards (B,), given each sequence's group and trajectory (B,)."""
        part_B = torch.unique(torch.stack([group_B, trajectory_B]), dim=1, return_inverse=True)[1]
        weight_B = 1.0 / _sum_within(torch.ones_like(reward_B), part_B)
        size_B = _sum_within(weight_B, group_B).round()
        first_B = _group_first(reward_B, group_B)
        offset_B = reward_B - first_B
        differs_B = (offset_B.abs() > EQUAL * first_B.abs().clamp(min=1.0)).to(reward_B.dtype)
        offset_B = torch.where(_sum_within(differs_B, group_B) > 0, offset_B, 0.0)
        centred_B = offset_B - _sum_within(weight_B * offset_B, group_B) / size_B
        return cls(
            group_B=group_B,
            weight_B=weight_B,
            size_B=size_B,
            centred_B=centred_B,
            own_centred_B=_sum_within(weight_B * centred_B, part_B),
        )

    def total(self, value_B: Tensor) -> Tensor:
        """Each sequence's group total over trajectories. (B,) -> (B,)."""
        return _sum_within(self.weight_B * value_B, self.group_B)


def all_equal(rewards: Sequence[float]) -> bool:
    """Whether a group with these rewards has nothing to compare."""
    return all(abs(r - rewards[0]) <= EQUAL * max(1.0, abs(rewards[0])) for r in rewards)


def _sum_within(value_B: Tensor, group_B: Tensor) -> Tensor:
    """Each sequence's group total. (B,) -> (B,)."""
    num_groups = int(group_B.max()) + 1 if group_B.numel() else 0
    return value_B.new_zeros(num_groups).index_add(0, group_B, value_B)[group_B]


def _group_first(value_B: Tensor, group_B: Tensor) -> Tensor:
    """One member's value for every member of its group, so that differences cancel exactly."""
    picked = torch.zeros_like(value_B[: int(group_B.max()) + 1 if group_B.numel() else 0])
    picked[group_B.flip(0)] = value_B.flip(0)
    return picked[group_B]

"""Which sequence is trained on by which rank, in which microbatch of which optimizer step.

A microbatch is padded to its longest sequence, so sequences of like length go together. All ranks
get the same number of microbatches, because each one is a collective operation under ZeRO.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ur2.errors import InputError
from ur2.types import Batch, Sample

T = TypeVar("T")
Microbatch = tuple[Sample, ...]
"""Sequences of one forward pass; empty where a rank only keeps the others company."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankStep:
    """One rank's share of one optimizer step."""

    microbatches: tuple[Microbatch, ...]
    num_tokens: int
    """Policy tokens of the step over all ranks, a denominator."""
    num_sequences: int
    """Sequences of the step over all ranks, a denominator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankPlan:
    """One rank's share of a batch, one entry per optimizer step."""

    steps: tuple[RankStep, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The shares of all ranks; every sample with policy tokens is in exactly one."""

    ranks: tuple[RankPlan, ...]

    def for_rank(self, rank: int) -> RankPlan:
        """The share of one rank, the only part that it needs."""
        return self.ranks[rank]


def plan(batch: Batch, *, num_updates: int, num_ranks: int, max_tokens_per_microbatch: int) -> Plan:
    """Splits a batch into optimizer steps, ranks and microbatches; deterministic.

    Args:
        batch: at least one sample with policy tokens; samples without any are left out.
        num_updates: optimizer steps; fewer where there are fewer samples.
        num_ranks: data-parallel ranks.
        max_tokens_per_microbatch: tokens of one microbatch, padding included; a sample that is
            longer goes alone.

    Raises:
        InputError: the batch has no policy token.
    """
    samples = [s for s in batch.samples if s.mask.any()]
    if not samples:
        raise InputError("nothing to train on: no sample of the batch has a policy token")
    by_length = sorted(samples, key=lambda s: (-num_inputs(s), s.id))
    steps = [
        _split_step(step, num_ranks, max_tokens_per_microbatch)
        for step in _deal(by_length, min(num_updates, len(by_length)))
    ]
    return Plan(
        ranks=tuple(
            RankPlan(steps=tuple(step[rank] for step in steps)) for rank in range(num_ranks)
        )
    )


def num_inputs(sample: Sample) -> int:
    """Tokens that the model must read: all before the last one that is trained on."""
    return int(np.flatnonzero(sample.mask)[-1])


def padded_tokens(samples: Sequence[Sample]) -> int:
    """Tokens of a microbatch, padding included."""
    return len(samples) * max(map(num_inputs, samples), default=0)


def _split_step(samples: Sequence[Sample], num_ranks: int, max_tokens: int) -> list[RankStep]:
    """The shares of all ranks in one optimizer step; `samples` longest first."""
    parts = _microbatches(samples, num_ranks, max_tokens)
    shares = _deal(sorted(parts, key=padded_tokens, reverse=True), num_ranks)
    return [
        RankStep(
            microbatches=tuple(share),
            num_tokens=int(sum(s.mask.sum() for s in samples)),
            num_sequences=len(samples),
        )
        for share in shares
    ]


def _microbatches(samples: Sequence[Sample], num_ranks: int, max_tokens: int) -> list[Microbatch]:
    """Runs of `samples`, a multiple of `num_ranks`, as few and as even as the limit allows."""
    needed = len(_runs(samples, max_tokens))
    total = -(-needed // num_ranks) * num_ranks
    low, high = 0, max(max_tokens, padded_tokens(samples[:1]))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if len(_runs(samples, middle)) <= total else (middle, high)
    runs = _runs(samples, high)
    return [tuple(run) for run in runs] + [()] * (total - len(runs))


def _runs(samples: Sequence[Sample], limit: int) -> list[list[Sample]]:
    """Cuts `samples` (longest first) where the padded size would pass `limit`."""
    runs: list[list[Sample]] = []
    for sample in samples:
        if runs and (len(runs[-1]) + 1) * num_inputs(runs[-1][0]) <= limit:
            runs[-1].append(sample)
        else:
            runs.append([sample])
    return runs


def _deal(items: Sequence[T], num_hands: int) -> list[list[T]]:
    """Deals sorted items back and forth, so that hands weigh about the same."""
    hands: list[list[T]] = [[] for _ in range(num_hands)]
    for position, item in enumerate(items):
        round_, place = divmod(position, num_hands)
        hands[place if round_ % 2 == 0 else num_hands - 1 - place].append(item)
    return hands

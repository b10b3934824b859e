"""Which sequence is trained on by which rank, in which microbatch of which optimizer step.

Sequences are packed without padding, so any of them may share a microbatch: those of one step cost
about the same, and so do optimizer steps and ranks. All ranks get the same number of microbatches,
because each one is a collective operation under ZeRO.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush, heapreplace
from typing import TypeVar

import numpy as np

from ur2.errors import InputError
from ur2.types import Batch, Sample

T = TypeVar("T")
ATTENTION_SPAN = 32_768
"""Length at which causal attention costs as much as the matrices: 12 widths, of a model with 3 to 7
billion parameters. It only weighs sequences against each other."""
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
class BatchPlan:
    """The shares of all ranks; every sample with policy tokens is in exactly one."""

    ranks: tuple[RankPlan, ...]

    def for_rank(self, rank: int) -> RankPlan:
        """The share of one rank, the only part that it needs."""
        return self.ranks[rank]

    @property
    def padding_fraction(self) -> float:
        """Share of tokens that are read for nothing: one by each rank that has no sequence."""
        parts = [m for rank in self.ranks for step in rank.steps for m in step.microbatches]
        idle = sum(not microbatch for microbatch in parts)
        return idle / (idle + sum(map(num_tokens, parts)))


def plan(
    batch: Batch, *, num_updates: int, num_ranks: int, max_tokens_per_microbatch: int
) -> BatchPlan:
    """Splits a batch into optimizer steps, ranks and microbatches; deterministic.

    Args:
        batch: at least one sample with policy tokens; samples without any are left out.
        num_updates: optimizer steps; fewer where there are fewer samples.
        num_ranks: data-parallel ranks.
        max_tokens_per_microbatch: tokens of one microbatch; a sample that is longer goes alone.

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
    return BatchPlan(
        ranks=tuple(
            RankPlan(steps=tuple(step[rank] for step in steps)) for rank in range(num_ranks)
        )
    )


def num_inputs(sample: Sample) -> int:
    """Tokens that the model must read: all before the last one that is trained on."""
    return int(np.flatnonzero(sample.mask)[-1])


def num_tokens(samples: Sequence[Sample]) -> int:
    """Tokens of a microbatch."""
    return sum(map(num_inputs, samples))


def cost(samples: Sequence[Sample]) -> float:
    """Work of a microbatch: linear in tokens, and quadratic in each sequence for its attention."""
    return sum(n * (1.0 + n / ATTENTION_SPAN) for n in map(num_inputs, samples))


def _split_step(samples: Sequence[Sample], num_ranks: int, max_tokens: int) -> list[RankStep]:
    """The shares of all ranks in one optimizer step; `samples` longest first."""
    parts = _microbatches(samples, num_ranks, max_tokens)
    # ranks work at the same time on parts that follow one another here
    shares = _deal(sorted(parts, key=cost, reverse=True), num_ranks)
    return [
        RankStep(
            microbatches=tuple(share),
            num_tokens=int(sum(s.mask.sum() for s in samples)),
            num_sequences=len(samples),
        )
        for share in shares
    ]


def _microbatches(samples: Sequence[Sample], num_ranks: int, max_tokens: int) -> list[Microbatch]:
    """A multiple of `num_ranks`, as few as are found within the limit, of about equal cost."""
    alone = sum(2 * num_inputs(s) > max_tokens for s in samples)
    rounds = max(-(-num_tokens(samples) // (max_tokens * num_ranks)), -(-alone // num_ranks), 1)
    while (parts := _fill(samples, rounds * num_ranks, max_tokens)) is None:
        rounds += 1
    return parts


def _fill(samples: Sequence[Sample], num_parts: int, max_tokens: int) -> list[Microbatch] | None:
    """Each of `samples` (longest first) into the cheapest part that has room, if one has."""
    parts: list[list[Sample]] = [[] for _ in range(num_parts)]
    tokens = [0] * num_parts
    costs = [(0.0, number) for number in range(num_parts)]  # a heap
    for sample in samples:
        count = num_inputs(sample)
        full = []
        while costs and tokens[costs[0][1]] and tokens[costs[0][1]] + count > max_tokens:
            full.append(heappop(costs))
        if not costs:
            return None
        so_far, number = costs[0]
        parts[number].append(sample)
        tokens[number] += count
        heapreplace(costs, (so_far + cost([sample]), number))
        for item in full:
            heappush(costs, item)
    return [tuple(part) for part in parts]


def _deal(items: Sequence[T], num_hands: int) -> list[list[T]]:
    """Deals sorted items back and forth, so that hands weigh about the same."""
    hands: list[list[T]] = [[] for _ in range(num_hands)]
    for position, item in enumerate(items):
        round_, place = divmod(position, num_hands)
        hands[place if round_ % 2 == 0 else num_hands - 1 - place].append(item)
    return hands

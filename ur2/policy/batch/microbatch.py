"""One microbatch as tensors: its sequences packed into one row, without padding.

Shapes: _T input tokens of all sequences end to end, _S sequences, _N trained tokens, _M pairs of a
trained token and an id that it was drawn among.
"""
# ruff: noqa: N815 - shape suffixes are the notation of the maths, in records too

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ur2.policy.batch.packing import num_inputs
from ur2.types import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedRow:
    """The sequences of one forward pass; no token sees another sequence."""

    input_ids_T: Tensor
    position_ids_T: Tensor
    """From 0 in each sequence."""
    offset_S: Tensor
    """Where each sequence begins, and T, (S + 1,) int32."""
    lengths: tuple[int, ...]
    """Lengths of the sequences, on the host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MicrobatchInputs:
    """The row that the model reads, and the tokens that it is asked about."""

    row: PackedRow
    position_N: Tensor
    """Index into the row of the token before each trained one."""
    target_N: Tensor
    advantage_N: Tensor
    sampler_logprob_N: Tensor
    sequence_N: Tensor
    """Which of the S sequences each trained token is in."""
    length_B: Tensor
    """Trained tokens of each sequence."""
    allowed_2M: Tensor | None = None
    """Which of the N, and an id that it was drawn among; None where all were drawn among all."""


def collate(samples: Sequence[Sample], device: torch.device) -> MicrobatchInputs:
    """Packs samples; no sample gives a row that reads a token and trains on nothing."""
    if not samples:
        return _idle(device)
    lengths = [num_inputs(s) for s in samples]
    starts = np.cumsum([0, *lengths[:-1]])
    targets = [np.flatnonzero(s.mask) for s in samples]
    counts = np.array([len(target) for target in targets])

    def chosen(arrays: Sequence[NDArray[np.generic]]) -> Tensor:
        values = [array[target] for array, target in zip(arrays, targets, strict=True)]
        return torch.from_numpy(np.concatenate(values)).to(device)

    return MicrobatchInputs(
        row=make_row([s.token_ids[:n] for s, n in zip(samples, lengths, strict=True)], device),
        position_N=torch.from_numpy(
            np.concatenate([start + t - 1 for start, t in zip(starts, targets, strict=True)])
        ).to(device),
        target_N=chosen([s.token_ids for s in samples]),
        advantage_N=chosen([s.advantages for s in samples]),
        sampler_logprob_N=chosen([s.sampler_logprobs for s in samples]),
        sequence_N=torch.from_numpy(np.repeat(np.arange(len(samples)), counts)).to(device),
        length_B=torch.from_numpy(counts).to(device),
        allowed_2M=_allowed(samples, targets, device),
    )


def make_row(sequences: Sequence[NDArray[np.int64]], device: torch.device) -> PackedRow:
    """Token ids of each sequence, none of them empty, end to end."""
    lengths = tuple(len(ids) for ids in sequences)
    positions = np.concatenate([np.arange(n) for n in lengths])
    return PackedRow(
        input_ids_T=torch.from_numpy(np.concatenate(sequences)).to(device),
        position_ids_T=torch.from_numpy(positions).to(device),
        offset_S=torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32, device=device),
        lengths=lengths,
    )


def _allowed(
    samples: Sequence[Sample], targets: Sequence[NDArray[np.int64]], device: torch.device
) -> Tensor | None:
    """Pairs of a trained token and an id that it was drawn among; None where there are none."""
    pairs: list[tuple[int, int]] = []
    start = 0
    for sample, target in zip(samples, targets, strict=True):
        if sample.allowed:
            number = {int(position): start + n for n, position in enumerate(target)}
            trained = {at: ids for at, ids in sample.allowed.items() if at in number}
            pairs += [(number[at], token) for at, ids in trained.items() for token in ids]
        start += len(target)
    return torch.tensor(pairs, device=device).T if pairs else None


def _idle(device: torch.device) -> MicrobatchInputs:
    """One token whose loss has weight 0: the rank takes part in collectives, and adds nothing."""
    zero = torch.zeros(1, dtype=torch.int64, device=device)
    return MicrobatchInputs(
        row=make_row([np.zeros(1, dtype=np.int64)], device),
        position_N=zero,
        target_N=zero,
        advantage_N=zero.float(),
        sampler_logprob_N=zero.float(),
        sequence_N=zero,
        length_B=zero,
    )

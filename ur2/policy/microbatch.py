"""One microbatch as tensors.

Shapes: _B sequences, _T input tokens (right-padded), _N trained tokens of the microbatch.
"""
# ruff: noqa: N815 - shape suffixes are the notation of the maths, in records too

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ur2.policy.packing import num_inputs
from ur2.types import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What the model reads and what is asked of it."""

    input_ids_BT: Tensor
    position_N: Tensor
    """Flat index into (B, T) of the token before each trained one."""
    target_N: Tensor
    advantage_N: Tensor
    sampler_logprob_N: Tensor
    sequence_N: Tensor
    """Which of the B sequences each trained token is in."""
    length_B: Tensor
    """Trained tokens of each sequence."""


def collate(samples: Sequence[Sample], device: torch.device) -> Inputs:
    """Pads samples on the right; no sample gives one that reads a token and trains on nothing."""
    if not samples:
        return _idle(device)
    width = max(map(num_inputs, samples))
    input_ids_BT = np.zeros((len(samples), width), dtype=np.int64)
    targets = [np.flatnonzero(s.mask) for s in samples]
    for row, sample in enumerate(samples):
        count = num_inputs(sample)
        input_ids_BT[row, :count] = sample.token_ids[:count]
    positions = [row * width + target - 1 for row, target in enumerate(targets)]
    lengths = np.array([len(target) for target in targets])

    def chosen(arrays: Sequence[np.ndarray]) -> Tensor:
        values = [array[target] for array, target in zip(arrays, targets, strict=True)]
        return torch.from_numpy(np.concatenate(values)).to(device)

    return Inputs(
        input_ids_BT=torch.from_numpy(input_ids_BT).to(device),
        position_N=torch.from_numpy(np.concatenate(positions)).to(device),
        target_N=chosen([s.token_ids for s in samples]),
        advantage_N=chosen([s.advantages for s in samples]),
        sampler_logprob_N=chosen([s.sampler_logprobs for s in samples]),
        sequence_N=torch.from_numpy(np.repeat(np.arange(len(samples)), lengths)).to(device),
        length_B=torch.from_numpy(lengths).to(device),
    )


def _idle(device: torch.device) -> Inputs:
    """One token whose loss has weight 0: the rank takes part in collectives, and adds nothing."""
    zero = torch.zeros(1, dtype=torch.int64, device=device)
    return Inputs(
        input_ids_BT=zero[None],
        position_N=zero,
        target_N=zero,
        advantage_N=zero.float(),
        sampler_logprob_N=zero.float(),
        sequence_N=zero,
        length_B=zero,
    )

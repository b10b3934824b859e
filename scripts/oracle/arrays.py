"""The random arrays that all implementations get, and our loss of them.

Shapes: _B sequences, _T tokens after the prompt.
"""
# ruff: noqa: N802, N815 - shape suffixes are the notation of the maths, in records too

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ur2.algorithms.options import AlgorithmOptions
from ur2.algorithms.reductions import Denominators
from ur2.policy.batch.microbatch import collate
from ur2.policy.loss import microbatch_loss
from ur2.types import Sample

SEVERAL = (3, 4, 5, 2)
"""Sizes of groups."""
WITH_SINGLETON = (3, 4, 1, 6)
NUM_TOKENS = 48
NORM_LENGTH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrays:
    """One batch of trajectories with documents in between."""

    reward_B: Tensor
    group_B: Tensor
    mask_BT: Tensor
    """True at policy tokens; the last one of a row may be followed by documents or padding."""
    kl_BT: Tensor
    value_BT: Tensor
    advantage_BT: Tensor
    logprob_BT: Tensor
    old_logprob_BT: Tensor
    sampler_logprob_BT: Tensor
    reference_logprob_BT: Tensor

    @property
    def last_BT(self) -> Tensor:
        """True at the last policy token of each row."""
        return self.mask_BT & (self.mask_BT.flip(1).cumsum(1).flip(1) == 1)

    def token_reward_BT(self, kl_coef: float = 0.0) -> Tensor:
        """The reward at the last policy token, less the penalty of each."""
        reward_BT = torch.where(self.last_BT, self.reward_B[:, None], 0.0)
        return reward_BT - kl_coef * torch.where(self.mask_BT, self.kl_BT, 0.0)


def make_arrays(seed: int, sizes: tuple[int, ...] = SEVERAL) -> Arrays:
    """Uneven rows: a document in each, padding after most."""
    generator = torch.Generator().manual_seed(seed)
    num_rows = sum(sizes)

    def normal(scale: float) -> Tensor:
        return scale * torch.randn(num_rows, NUM_TOKENS, generator=generator)

    mask_BT = torch.zeros(num_rows, NUM_TOKENS, dtype=torch.bool)
    for row in range(num_rows):
        first, gap, second = torch.randint(1, 16, (3,), generator=generator).tolist()
        mask_BT[row, :first] = True
        mask_BT[row, first + gap : first + gap + second] = True
    old_BT = -normal(1.0).abs()
    return Arrays(
        reward_B=torch.randint(-4, 5, (num_rows,), generator=generator) / 4,
        group_B=torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)),
        mask_BT=mask_BT,
        kl_BT=normal(0.1),
        value_BT=normal(0.5),
        advantage_BT=normal(1.0)[:, :1].expand(num_rows, NUM_TOKENS),
        logprob_BT=old_BT + normal(0.3),
        old_logprob_BT=old_BT,
        sampler_logprob_BT=old_BT + normal(0.4),
        reference_logprob_BT=old_BT + normal(0.3),
    )


def our_loss(arrays: Arrays, options: AlgorithmOptions) -> Tensor:
    """Loss, and gradient per log-probability times the number of tokens, as one vector.

    Through the code that trains: samples, collation and `microbatch_loss`.
    """
    num_rows = len(arrays.mask_BT)
    inputs = collate([_sample(arrays, row) for row in range(num_rows)], torch.device("cpu"))
    logprob_N = arrays.logprob_BT[arrays.mask_BT].requires_grad_()
    num_tokens = int(arrays.mask_BT.sum())
    loss, _ = microbatch_loss(
        logprob_N,
        torch.zeros(num_tokens),
        inputs,
        arrays.old_logprob_BT[arrays.mask_BT],
        options,
        Denominators(num_tokens=num_tokens, num_sequences=num_rows, norm_length=NORM_LENGTH),
        arrays.reference_logprob_BT[arrays.mask_BT] if options.kl_coef else None,
    )
    (gradient_N,) = torch.autograd.grad(loss, logprob_N)
    return torch.cat([loss.detach()[None], gradient_N * num_tokens])


def their_loss(loss: Tensor, logprob_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """The same vector of another implementation's loss."""
    (gradient_BT,) = torch.autograd.grad(loss, logprob_BT)
    return torch.cat([loss.detach()[None], gradient_BT[mask_BT] * mask_BT.sum()])


def _sample(arrays: Arrays, row: int) -> Sample:
    """A row behind one token of prompt."""

    def behind_prompt(values_T: Tensor) -> np.ndarray:
        return np.concatenate([[0], values_T.numpy()]).astype(np.float32)

    return Sample(
        id=str(row),
        token_ids=np.zeros(NUM_TOKENS + 1, dtype=np.int64),
        mask=behind_prompt(arrays.mask_BT[row]).astype(np.bool_),
        advantages=behind_prompt(arrays.advantage_BT[row]),
        sampler_logprobs=behind_prompt(arrays.sampler_logprob_BT[row]),
    )

"""From a loss per token to one number, with denominators passed in.

A reduction is the weight that each policy token of a sequence gets; the loss is Σ weight·loss over
tokens. Denominators count the whole update, over all ranks and microbatches, so any split of it
gives the same gradient. Departure from the papers: means are over all questions of the update at
once, where GRPO's is over the samples of each question first; groups of one size make them equal.

Shapes: _B sequences of this microbatch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Denominators:
    """Counts over one whole update."""

    num_tokens: int
    """Policy tokens."""
    num_sequences: int
    """Sequences with at least one policy token."""
    norm_length: int
    """The constant length of `seq_mean_token_sum_norm`."""


Reduction = Callable[[Tensor, Denominators], Tensor]


def token_mean(length_B: Tensor, denominators: Denominators) -> Tensor:
    """1 / tokens: every token counts the same. Yu et al. 2025 (DAPO), eq. 12. (B,) -> (B,)."""
    return torch.full(length_B.shape, 1.0 / denominators.num_tokens, device=length_B.device)


def seq_mean_token_mean(length_B: Tensor, denominators: Denominators) -> Tensor:
    """1 / (length · sequences): every sequence counts the same. Shao et al. 2024, eq. 3."""
    return 1.0 / (length_B.clamp(min=1).float() * denominators.num_sequences)


def seq_mean_token_sum_norm(length_B: Tensor, denominators: Denominators) -> Tensor:
    """1 / (constant · sequences): no length bias. Liu et al. 2025 (Dr. GRPO), section 3.2."""
    weight = 1.0 / (denominators.norm_length * denominators.num_sequences)
    return torch.full(length_B.shape, weight, device=length_B.device)


REDUCTIONS: Mapping[str, Reduction] = {
    "seq_mean_token_mean": seq_mean_token_mean,
    "seq_mean_token_sum_norm": seq_mean_token_sum_norm,
    "token_mean": token_mean,
}

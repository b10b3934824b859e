"""The critic's loss per token.

Shapes: _N policy tokens, in any order.
"""

import torch
from torch import Tensor


def clipped_value(
    value_N: Tensor, old_value_N: Tensor, return_N: Tensor, clip: float | None
) -> tuple[Tensor, Tensor]:
    """(½ max((V − R)², (V_clip − R)²), where it was clipped). (N,) -> (N,).

    V_clip keeps V within `clip` of what it was before the update, as in the code of Schulman et al.
    2017; without `clip` the loss is ½ (V − R)².
    """
    free_N = (value_N - return_N).square()
    if clip is None:
        return 0.5 * free_N, torch.zeros_like(value_N, dtype=torch.bool)
    held_N = (old_value_N + (value_N - old_value_N).clamp(-clip, clip) - return_N).square()
    return 0.5 * torch.maximum(free_N, held_N), held_N > free_N

"""Checksums of weights, the same wherever and in whatever layout the weights lie."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

KEY = "checksums"
"""The key in the metadata of published files: JSON, checksum by name."""


def checksum(tensor: "Tensor") -> int:
    """The sum of its values' bits modulo 2^64; zeros add nothing, whatever their sign.

    It does not depend on order, so that a fused or repacked layout keeps the sum of its parts. A
    permutation inside a tensor therefore passes.
    """
    import torch

    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = (tensor.detach() + 0).contiguous().view(integers[tensor.element_size()])
    return total([int(bits.sum(dtype=torch.int64))])


def total(checksums: Iterable[int]) -> int:
    """The checksum of tensors laid together."""
    return sum(checksums) % 2**64

"""Which sequence each policy token is in, for losses and corrections that look at whole sequences.

Shapes: _B sequences, _N their policy tokens in any order. A sequence is never split, so that what
is computed of it does not depend on the microbatch it is in.
"""
# ruff: noqa: N815 - shape suffixes are the notation of the maths, in records too

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequences:
    """Sequences as a whole, flattened to their policy tokens."""

    sequence_N: Tensor
    """0 ... B - 1."""
    length_B: Tensor
    """Policy tokens of each sequence."""

    def mean(self, value_N: Tensor) -> Tensor:
        """At every token, the mean over its sequence. (N,) -> (N,)."""
        sum_B = value_N.new_zeros(len(self.length_B)).index_add(0, self.sequence_N, value_N)
        return (sum_B / self.length_B.clamp(min=1))[self.sequence_N]

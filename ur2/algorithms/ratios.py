"""Ratios of two probabilities from the difference of their logarithms.

A token that one of the two holds impossible would make the ratio overflow, and its gradient NaN.
"""

from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Beyond it a log-ratio counts as this much, with no gradient; e^20 is 4.9e8."""


def bounded(log_ratio: Tensor) -> Tensor:
    """The log-ratio within ±`MAX_LOG_RATIO`. Any shape."""
    return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def ratio_of(log_ratio: Tensor) -> Tensor:
    """e^log_ratio, finite in value and gradient. Any shape."""
    return bounded(log_ratio).exp()

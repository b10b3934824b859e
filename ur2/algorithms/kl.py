"""Estimators of KL(p ‖ q) from samples of p. Schulman, "Approximating KL divergence", 2020.

No departures. In the reward p is the policy that sampled, in the loss the one that is trained.
Shapes: any; log_ratio = log p − log q at the sampled token, and r = q / p = exp(−log_ratio).
"""

from collections.abc import Callable, Mapping

from torch import Tensor

KlEstimator = Callable[[Tensor], Tensor]


def k1(log_ratio: Tensor) -> Tensor:
    """−log r = log p − log q: unbiased, high variance, may be negative."""
    return log_ratio


def k2(log_ratio: Tensor) -> Tensor:
    """½ (log r)²: biased, low variance; its gradient is that of the KL."""
    return 0.5 * log_ratio.square()


def k3(log_ratio: Tensor) -> Tensor:
    """(r − 1) − log r: unbiased, low variance, never negative."""
    return (-log_ratio).expm1() + log_ratio


KL_ESTIMATORS: Mapping[str, KlEstimator] = {"k1": k1, "k2": k2, "k3": k3}

"""Estimators of KL(p ‖ q) from samples of p. Schulman, "Approximating KL divergence", 2020.

In the reward p is the policy that sampled, in the loss the one that is trained.
Shapes: any; log_ratio = log p − log q at the sampled token, and r = q / p = exp(−log_ratio).

Departures: `k3` does not rise beyond r = e^20, where it would soon overflow.
"""

from collections.abc import Callable, Mapping

from torch import Tensor

from ur2.algorithms.ratios import MAX_LOG_RATIO

KlEstimator = Callable[[Tensor], Tensor]


def k1(log_ratio: Tensor) -> Tensor:
    """−log r = log p − log q: unbiased, high variance, may be negative."""
    return log_ratio


def k2(log_ratio: Tensor) -> Tensor:
    """½ (log r)²: biased, low variance; its gradient is that of the KL."""
    return 0.5 * log_ratio.square()


def k3(log_ratio: Tensor) -> Tensor:
    """(r − 1) − log r: unbiased, low variance, never negative."""
    finite = log_ratio.clamp(min=-MAX_LOG_RATIO)
    return (-finite).expm1() + finite


KL_ESTIMATORS: Mapping[str, KlEstimator] = {"k1": k1, "k2": k2, "k3": k3}

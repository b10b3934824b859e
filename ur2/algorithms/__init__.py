"""The maths of reinforcement learning: pure functions on tensors, no I/O.

Enters: rewards, masks, log-probabilities. Leaves: advantages, per-token losses and weights.
Invariant: only policy tokens count; padding and observations change nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ur2.algorithms.advantages import estimate

__all__ = ["estimate"]


def __getattr__(name: str) -> Any:
    """Loads `estimate` when it is asked for, so that the options import without torch."""
    if name != "estimate":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ur2.algorithms.advantages import estimate

    return estimate

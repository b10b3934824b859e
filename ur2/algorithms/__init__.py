"""The maths of reinforcement learning: pure functions on tensors, no I/O.

Enters: rewards, masks, log-probabilities. Leaves: advantages, per-token losses and weights.
Invariant: only policy tokens count; padding and observations change nothing.
"""

from ur2.algorithms.advantages import estimate

__all__ = ["estimate"]

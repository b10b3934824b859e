"""Learning rates as a function of the optimizer step."""

import math

from ur2.policy.options import PolicyOptions


def learning_rate_factor(options: PolicyOptions, step: int, total_steps: int) -> float:
    """The factor of learning rates in optimizer step `step` (from 0) of `total_steps`.

    Steps are counted as if every step of the loop had all its updates.
    """
    if step < options.warmup_steps:
        return (step + 1) / options.warmup_steps
    start = options.decay_start * total_steps
    if options.schedule == "constant" or step < start:
        return 1.0
    progress = min((step - start) / max(total_steps - start, 1.0), 1.0)
    if options.schedule == "linear":
        return 1.0 - progress
    return 0.5 * (1.0 + math.cos(math.pi * progress))

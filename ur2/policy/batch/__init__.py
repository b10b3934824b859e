"""A batch of samples cut into steps, ranks and microbatches, and its numbers joined again.

Enters: a Batch. Leaves: plans and packed tensors; numbers per token and metrics of the whole batch.
Invariant: how it is cut changes neither the gradient nor the metrics.
"""

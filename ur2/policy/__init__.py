"""The policy update: DeepSpeed ranks that turn batches into weights.

Enters: a Batch of samples with advantages. Leaves: metrics, and weights as safetensors or as a
Hugging Face folder. Invariant: how a batch is split over ranks and microbatches does not change the
gradient, and a step that is not finite leaves the weights as they were.
"""

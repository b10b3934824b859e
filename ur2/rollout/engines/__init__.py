"""Inference engines: token ids in, sampled ids with their log-probabilities out.

Enters: `GenerationRequest`s, many at once, and published weights. Leaves: `Generation`s. Invariant:
sampled ids are never encoded again, and each logprob is exact for the weights that sampled it.
"""

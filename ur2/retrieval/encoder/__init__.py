"""Texts to vectors, and pairs of texts to scores.

Enters: passages and queries. Leaves: unit vectors, in memory or as shards on disk, and the order
that a reranker gives. Invariant: vectors do not depend on what else is in their batch, and carry
the record of the encoder that made them.
"""

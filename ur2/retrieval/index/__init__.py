"""Vectors and words to rankings. The only home of faiss.

Enters: vectors or texts of all passages once, then those of queries. Leaves: row numbers and
scores, best first. Invariant: a flat index ranks as brute force does, and an approximate one is
only as broad as its measured recall asks for.
"""

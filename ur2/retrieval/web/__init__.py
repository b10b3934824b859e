"""The web as a corpus.

Enters: queries and addresses. Leaves: results as passages, and pages as text in parts. Invariant:
only public addresses are fetched, within bounds of size and time.
"""

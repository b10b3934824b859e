"""Retrieval as an episode knows it: from what it asks to what it reads.

Enters: a look-up of an episode. Leaves: a finding: passages from the corpus of its task, or what a
summariser made of them. Invariant: a model that does not answer is a failure, and what it says is
never passed off as a passage.
"""

"""The networks that are trained, as one process sees them.

Enters: a model folder and packed rows of tokens. Leaves: log-probabilities of chosen tokens,
values, and adapters. Invariant: sequences in one row do not see each other, and memory does not
grow with the vocabulary.
"""

"""Which questions a step trains on, and whether they may be answered with retrieval.

Enters: all questions, then the scored groups of each step. Leaves: assignments. Invariant: the
stream of assignments follows from the seed and from what was observed, continues exactly after
`load_state_dict`, and draws no question twice in an epoch of its bucket. Pure: nothing here knows a
model, a clock or a file.
"""

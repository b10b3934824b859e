"""Which questions a step trains on, and whether they may be answered with retrieval.

Enters: all questions, then the scored groups of each step. Leaves: assignments. Invariant: the
stream of assignments follows from the seed alone, continues exactly after `load_state_dict`, and
draws no question of a bucket twice before all others of it were drawn.
"""

"""The loop and everything around it.

Enters: typed options and the stages built from them. Leaves: a run directory. Invariant: between
two steps the checkpointed state alone determines everything that follows.
"""

"""The record of a run, for people to see.

Enters: scored groups, metrics and spans of time. Leaves: the run directory with metrics,
trajectories, checkpoints' places, the timeline and pictures, and what trackers show. Invariant: a
file is written whole or not at all, and training does not depend on what is recorded.
"""

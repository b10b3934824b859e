"""Rollout workers as one.

Enters: assignments and published weights. Leaves: groups of trajectories, as soon as each is
complete. Invariant: a worker that dies is replaced, its episodes are played again, and every worker
plays with the newest weights that it was told of.
"""

"""Starts a run on several nodes: one agent per node, checks before anything loads, ray, training.

Enters: the nodes, by ssh or srun, and a run's command line. Leaves: the training's exit code.
Invariant: an agent lives only as long as its launcher talks to it, and ends what it started, so
that no process outlives a launch whatever ends it.
"""

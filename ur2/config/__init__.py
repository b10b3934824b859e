"""From command line to typed options.

Enters: Hydra overrides. Leaves: one frozen `RunOptions` tree that has passed preflight. Invariant:
no unknown key, wrong type or missing input gets past here.
"""

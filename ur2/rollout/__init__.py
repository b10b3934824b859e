"""Trajectories: questions played by the policy against the environment.

Enters: assignments (a question, retrieval on or off). Leaves: groups of trajectories. Invariant:
every token has one author from birth, sampled ids are trained on as they were sampled, and an
episode ends within its budgets with a status that says how.
"""

"""Scores of trajectories.

Enters: a group of trajectories and the step. Leaves: the same group with one `Score` each, whose
named parts sum to its total. Invariant: only what the policy wrote is read, and a question is found
by its record, never by its text.
"""

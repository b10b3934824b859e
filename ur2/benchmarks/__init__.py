"""Measures a policy on question files.

Enters: benchmarks (a file, a task, metrics) and a pool of rollout workers.
Leaves: one line per question, `results.json`, and `results.md` beside published numbers.
Invariant: every question of a benchmark is in its denominators, however its episode ended.
"""

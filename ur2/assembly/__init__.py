"""From typed options to running parts: the only place that sees all stages at once.

Enters: options and inputs that passed their checks. Leaves: a run's or a measurement's results.
Invariant: what was started is ended, whatever happens.
"""

"""The evidence behind what the README and RESULTS.md say; `scripts/bench/NAME.py` runs it.

A benchmark prints its tables, then one line of JSON: its name and its figures.
"""

"""Question files in, validated `Question` records out.

Enters: a path to JSON lines (plain, `.gz` or `.zst`) in this project's schema or in UR²'s.
Leaves: `Question` and `Demonstration` records; `ur2.datasets.atlas` makes a whole world of them.
Invariant: a file is checked whole before anything starts, and ids within a file are unique.
"""

from ur2.datasets.records import load_demonstrations, load_questions

__all__ = ["load_demonstrations", "load_questions"]

"""Question files in, validated `Question` records out.

Enters: JSON lines, a JSON array, parquet or a Hugging Face name, in this project's schema, UR²'s
or a benchmark's own (`rows.SCHEMAS`).
Leaves: `Question` and `Demonstration` records. `ur2.datasets.inspect` counts a file's rows,
`ur2.datasets.overlap` finds training questions among held-out ones, and `ur2.datasets.atlas`
makes a whole world of questions and passages.
Invariant: a file is checked whole before anything starts, and ids within a file are unique.
"""

from ur2.datasets.records import load_demonstrations, load_questions

__all__ = ["load_demonstrations", "load_questions"]

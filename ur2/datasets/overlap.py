"""Training questions that also stand in held-out files, and what is left without them.

python -m ur2.datasets.overlap TRAIN EVAL... [out=CLEANED] [threshold=0.8]
"""

import sys
from collections.abc import Sequence
from itertools import chain

from ur2.datasets.jsonl import write_jsonl
from ur2.datasets.matching import find_overlap
from ur2.datasets.options import OverlapOptions, with_positionals
from ur2.datasets.records import load_questions
from ur2.datasets.tables import show_overlap, show_written
from ur2.errors import InputError, run_entry
from ur2.options import parse_command_line


def main(argv: Sequence[str] | None = None) -> None:
    """Compares files, and writes what is left of the first."""
    options = parse_command_line(
        OverlapOptions,
        prog="python -m ur2.datasets.overlap",
        about="Finds training questions among held-out ones: TRAIN EVAL... or train= and eval=.",
        argv=with_positionals(sys.argv[1:] if argv is None else argv, "train", "eval"),
    )
    train = load_questions(options.train)
    held_out = {path: load_questions(path) for path in options.eval}
    by_file = {
        path: find_overlap(train, questions, threshold=options.threshold)
        for path, questions in held_out.items()
    }
    everything = list(chain.from_iterable(held_out.values()))
    overlap = find_overlap(train, everything, threshold=options.threshold)
    show_overlap(by_file, overlap, num_examples=options.examples)
    if options.out is not None:
        if len(overlap.matches) == len(train):
            raise InputError(f"every question of {options.train} is held out; nothing is left")
        show_written(options.out, write_jsonl(options.out, overlap.clean(train)))


if __name__ == "__main__":
    run_entry(main)

"""`python -m ur2.datasets.inspect PATH...`: what question files hold, or what is wrong with them.

Prints counts by source, task and level and histograms of lengths. A file with bad rows gives its
first problems and exit code 2; the other files are shown all the same.
"""

import sys
from collections.abc import Sequence

from ur2.datasets.options import InspectOptions, with_positionals
from ur2.datasets.records import load_questions
from ur2.datasets.tables import show_questions
from ur2.errors import InputError, run_entry
from ur2.options import parse_command_line


def main(argv: Sequence[str] | None = None) -> None:
    """Prints what the files hold.

    Raises:
        InputError: with the problems of every file that has some, after the good ones are shown.
    """
    options = parse_command_line(
        InspectOptions,
        prog="python -m ur2.datasets.inspect",
        about="Checks question files and counts what they hold: PATH... or paths=[...].",
        argv=with_positionals(sys.argv[1:] if argv is None else argv, "paths"),
    )
    problems = []
    for path in options.paths:
        try:
            show_questions(path, load_questions(path))
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("\n".join(problems))


if __name__ == "__main__":
    run_entry(main)

"""The rollouts of a measurement of difficulty: `settings.json` and `rollouts.jsonl`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ur2.benchmarks.lines import LineFile
from ur2.curriculum.difficulty import Tally
from ur2.errors import InputError
from ur2.types import Question

REMEDY = "pass another out=DIR"


class TallyFile:
    """One line per question and mode, so that a measurement can be continued."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self._lines = LineFile(out, Tally, name="rollouts.jsonl", remedy=REMEDY)

    def open(self, settings: Mapping[str, Any]) -> None:
        """Makes the folder.

        Raises:
            InputError: it holds rollouts that were made otherwise.
        """
        self._lines.open(settings)

    def read(self, questions: Sequence[Question]) -> dict[tuple[str, bool], Tally]:
        """The tallies that are there; a line that was cut off is removed.

        Raises:
            InputError: a line is no tally, or is of another question.
        """
        texts = {question.id: question.text for question in questions}
        tallies = {}
        for number, tally in enumerate(self._lines.read(), start=1):
            if texts.get(tally.id) != tally.question:
                raise InputError(
                    f"{self._lines.path}, line {number}: question '{tally.id}' is not in the file "
                    f"as it is now; {REMEDY}"
                )
            tallies[tally.id, tally.retrieval] = tally
        return tallies

    def append(self, tally: Tally) -> None:
        """Adds one line."""
        self._lines.append(tally)

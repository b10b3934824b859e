"""The rollouts of a measurement of difficulty: `settings.json` and `rollouts.jsonl`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ur2.curriculum.difficulty import Tally
from ur2.errors import InputError
from ur2.files import write_text
from ur2.types import Question


class TallyFile:
    """One line per question and mode, whole or absent, so that a measurement can be continued."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self._path = out / "rollouts.jsonl"

    def open(self, settings: Mapping[str, Any]) -> None:
        """Makes the folder.

        Raises:
            InputError: it holds rollouts that were made otherwise.
        """
        path = self.out / "settings.json"
        if path.exists():
            try:
                kept = dict(json.loads(path.read_text()))
            except (TypeError, ValueError) as error:
                raise InputError(f"{path}: no settings ({error}); pass another out=DIR") from error
            changed = [key for key in settings if kept.get(key) != settings[key]]
            if changed:
                raise InputError(
                    f"{self.out} holds rollouts under another {', '.join(changed)}: pass another "
                    "out=DIR"
                )
        self.out.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(settings, indent=2) + "\n")

    def read(self, questions: Sequence[Question]) -> dict[tuple[str, bool], Tally]:
        """The tallies that are there; a line that was cut off is removed.

        Raises:
            InputError: a line is no tally, or is of another question.
        """
        content = self._path.read_bytes() if self._path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            with self._path.open("r+b") as file:
                file.truncate(len(whole))
        texts = {question.id: question.text for question in questions}
        tallies = {}
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                tally = Tally.model_validate_json(line)
            except ValidationError as error:
                raise InputError(
                    f"{self._path}, line {number}: no tally; pass another out=DIR"
                ) from error
            if texts.get(tally.id) != tally.question:
                raise InputError(
                    f"{self._path}, line {number}: question '{tally.id}' is not in the file as it "
                    "is now; pass another out=DIR"
                )
            tallies[tally.id, tally.retrieval] = tally
        return tallies

    def append(self, tally: Tally) -> None:
        """Adds one line."""
        with self._path.open("ab") as file:
            file.write(tally.model_dump_json().encode() + b"\n")

"""Work that one command begins and another continues: `settings.json` and a file of lines."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from ur2.errors import InputError
from ur2.files import write_text

LineT = TypeVar("LineT", bound=BaseModel)


class LineFile(Generic[LineT]):
    """Lines of one kind, each whole or absent, so that what wrote them can be continued."""

    def __init__(self, out: Path, kind: type[LineT], *, name: str, remedy: str) -> None:
        """Touches nothing.

        Args:
            out: the folder.
            kind: the class of a line.
            name: of the file in it.
            remedy: what to do about a folder that holds something else, for messages.
        """
        self.out = out
        self.path = out / name
        self._kind = kind
        self._remedy = remedy

    def open(self, settings: Mapping[str, Any]) -> None:
        """Makes the folder, and notes the settings that all lines share.

        Raises:
            InputError: it holds lines that were made otherwise.
        """
        self.check(settings)
        self.out.mkdir(parents=True, exist_ok=True)
        write_text(self.out / "settings.json", json.dumps(settings, indent=2) + "\n")

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raises an InputError where the folder holds lines that were made otherwise."""
        path = self.out / "settings.json"
        if not path.exists():
            return
        try:
            kept = dict(json.loads(path.read_text()))
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}: no settings ({error}); {self._remedy}") from error
        given = json.loads(json.dumps(settings))
        changed = [key for key in given if kept.get(key) != given[key]]
        if changed:
            raise InputError(
                f"{self.out} holds {self.path.stem} under another {', '.join(changed)}: "
                f"{self._remedy}"
            )

    def read(self) -> list[LineT]:
        """The lines that are there; one that was cut off is removed.

        Raises:
            InputError: a line is of another kind.
        """
        content = self.path.read_bytes() if self.path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        lines = []
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                lines.append(self._kind.model_validate_json(line))
            except ValidationError as error:
                kind = self._kind.__name__.lower()
                raise InputError(
                    f"{self.path}, line {number}: no {kind}; {self._remedy}"
                ) from error
        return lines

    def append(self, line: LineT) -> None:
        """Adds one line, which is on the disk on return."""
        with self.path.open("ab") as file:
            file.write(line.model_dump_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

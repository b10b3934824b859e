"""The folder of an evaluation: `settings.json`, `items/<benchmark>.jsonl` and the results.

A line of items is whole or absent, so that an evaluation continues where it stopped.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ur2.benchmarks.grading import BenchmarkItem
from ur2.errors import InputError
from ur2.files import write_text
from ur2.types import Question, Status


class EvaluationFolder:
    """Owns the files of one evaluation."""

    def __init__(self, out: str) -> None:
        self.path = Path(out)
        self.results_path = self.path / "results.json"
        self.table_path = self.path / "results.md"
        self._settings_path = self.path / "settings.json"

    def check(self, settings: Mapping[str, Any]) -> None:
        """Refuses a folder whose items were made otherwise; `benchmarks` may differ by name.

        Raises:
            InputError: naming what differs.
        """
        stored = self._settings()
        given = json.loads(json.dumps(settings))
        differing = [key for key in given if key in stored and stored[key] != given[key]]
        if "benchmarks" in differing:
            old, new = stored["benchmarks"], given["benchmarks"]
            names = [f"benchmarks.{k}" for k in new if k in old and old[k] != new[k]]
            differing = [key for key in differing if key != "benchmarks"] + names
        if differing:
            raise InputError(
                f"{self.path} holds results under another {', '.join(differing)}: "
                "pass another out=DIR"
            )

    def open(self, settings: Mapping[str, Any]) -> None:
        """Makes the folder and notes the settings, after `check`."""
        (self.path / "items").mkdir(parents=True, exist_ok=True)
        benchmarks = {**self._settings().get("benchmarks", {}), **settings["benchmarks"]}
        merged = {**settings, "benchmarks": benchmarks}
        write_text(self._settings_path, json.dumps(merged, indent=2) + "\n")

    def read_items(self, benchmark: str, questions: Sequence[Question]) -> dict[str, BenchmarkItem]:
        """The items that are there, by question id; a line that was cut off is removed.

        Raises:
            InputError: a line is no item, or belongs to other questions.
        """
        path = self._items_path(benchmark)
        texts = {question.id: question.text for question in questions}
        items = {}
        for number, item in enumerate(_read(path), start=1):
            if texts.get(item.id) != item.question:
                raise InputError(
                    f"{path}, line {number}: question '{item.id}' is not in the benchmark's file "
                    "as it is now; pass another out=DIR"
                )
            items[item.id] = item
        return items

    def append(self, benchmark: str, item: BenchmarkItem) -> None:
        """Adds one line."""
        with self._items_path(benchmark).open("ab") as file:
            file.write(item.model_dump_json().encode() + b"\n")

    def drop_failures(self, benchmark: str, *, unjudged: bool) -> None:
        """Removes the items whose search failed and, if asked, those without a verdict."""
        path = self._items_path(benchmark)
        kept = [
            item
            for item in _read(path)
            if item.status is not Status.TOOL_FAILED
            and not (unjudged and None in item.metrics.values())
        ]
        write_text(path, "".join(f"{item.model_dump_json()}\n" for item in kept))

    def read_results(self) -> dict[str, Any]:
        """Results of an earlier evaluation into this folder, by benchmark."""
        if not self.results_path.exists():
            return {}
        results: dict[str, Any] = json.loads(self.results_path.read_text())["benchmarks"]
        return results

    def write_results(self, results: Mapping[str, Any], table: str) -> None:
        """Writes results.json and results.md."""
        write_text(self.results_path, json.dumps(results, indent=2) + "\n")
        write_text(self.table_path, table)

    def _settings(self) -> dict[str, Any]:
        if not self._settings_path.exists():
            return {}
        settings: dict[str, Any] = json.loads(self._settings_path.read_text())
        return settings

    def _items_path(self, benchmark: str) -> Path:
        return self.path / "items" / f"{benchmark}.jsonl"


def _read(path: Path) -> list[BenchmarkItem]:
    """The items of a file, after removing a last line that was cut off."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        with path.open("r+b") as file:
            file.truncate(len(whole))
    items = []
    for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
        try:
            items.append(BenchmarkItem.model_validate_json(line))
        except ValidationError as error:
            raise InputError(f"{path}, line {number}: no item; pass another out=DIR") from error
    return items

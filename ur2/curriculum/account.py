"""Counts of solved questions and of searches, by bucket and retrieval mode."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ur2.curriculum.outcome import GroupOutcome

MODES = ("with_retrieval", "without_retrieval")


@dataclass(slots=True, kw_only=True)
class Counts:
    """Sums over groups of one bucket and mode."""

    num_groups: int = 0
    num_samples: int = 0
    num_correct: float = 0.0
    num_searches: int = 0

    def add(self, outcome: GroupOutcome) -> None:
        """Counts a group."""
        self.num_groups += 1
        self.num_samples += outcome.num_samples
        self.num_correct += outcome.num_correct
        self.num_searches += outcome.num_searches


Table = dict[str, dict[str, Counts]]
"""By bucket, then by mode."""


class BucketAccount:
    """Counts since the start, and those of the last step.

    Args:
        cost_per_search: what a search costs.
    """

    def __init__(self, cost_per_search: float) -> None:
        self._cost_per_search = cost_per_search
        self._total: Table = {}
        self._last: Table = {}

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        """Counts the groups of a step."""
        _add(self._total, outcomes)
        self._last = {}
        _add(self._last, outcomes)

    def metrics(self) -> dict[str, float]:
        """Solve rates and searches since the start, and in the last step.

        By bucket and mode: solve rates since the start; groups and accuracy of the last step. By
        bucket: searches and their cost since the start; searches per sample with retrieval on in
        the last step.
        """
        values: dict[str, float] = {}
        for bucket, modes in sorted(self._total.items()):
            for mode, counts in sorted(modes.items()):
                rate = counts.num_correct / counts.num_samples
                values[f"curriculum/solved_{mode}/{bucket}"] = rate
            searches = sum(counts.num_searches for counts in modes.values())
            values[f"curriculum/searches/{bucket}"] = float(searches)
            values[f"curriculum/cost/{bucket}"] = self._cost_per_search * searches
        for bucket, modes in sorted(self._last.items()):
            for mode, counts in sorted(modes.items()):
                accuracy = counts.num_correct / counts.num_samples
                values[f"curriculum/groups_{mode}/{bucket}"] = float(counts.num_groups)
                values[f"curriculum/accuracy_{mode}/{bucket}"] = accuracy
            if (on := modes.get(MODES[0])) is not None:
                values[f"curriculum/search_rate/{bucket}"] = on.num_searches / on.num_samples
        return values

    def state_dict(self) -> dict[str, Any]:
        """Both tables, as plain data."""
        return {"total": _plain(self._total), "last": _plain(self._last)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where `state` was taken."""
        self._total, self._last = _table(state["total"]), _table(state["last"])


def _add(table: Table, outcomes: Iterable[GroupOutcome]) -> None:
    for outcome in outcomes:
        modes = table.setdefault(outcome.question.bucket, {})
        modes.setdefault(MODES[0 if outcome.retrieval else 1], Counts()).add(outcome)


def _plain(table: Table) -> dict[str, Any]:
    return {
        bucket: {mode: asdict(counts) for mode, counts in modes.items()}
        for bucket, modes in table.items()
    }


def _table(plain: Mapping[str, Any]) -> Table:
    return {
        bucket: {mode: Counts(**counts) for mode, counts in modes.items()}
        for bucket, modes in plain.items()
    }

"""Which questions of a bucket take part in an epoch, by how their groups went."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ur2.curriculum.options import CurriculumOptions
from ur2.curriculum.outcome import GroupOutcome
from ur2.types import Question

NEWEST = 0.5
"""The weight of a question's newest group in its pass rate."""


class Interest:
    """Pass rates of questions, and what follows for the next epoch.

    With `priority: variance` a question that is not retired is left out of at most
    `priority_max_skips` epochs in a row. A bucket none of whose questions would take part has all
    of them. The state is three numbers per question that was played.
    """

    def __init__(self, options: CurriculumOptions) -> None:
        self._options = options
        self._rates: dict[str, float] = {}
        self._streaks: dict[str, int] = {}
        """Groups in a row that were all right, or, below 0, all wrong; others are left out."""
        self._skips: dict[str, int] = {}

    @property
    def selects(self) -> bool:
        """Whether an epoch may lack a question at all."""
        return self._options.priority == "variance" or self._options.retire_after is not None

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        """Takes in how questions did."""
        if not self.selects:
            return
        for outcome in outcomes:
            key, rate = outcome.question.id, outcome.pass_rate
            self._rates[key] = self._rates.get(key, rate) * (1 - NEWEST) + rate * NEWEST
            if 0 < rate < 1:
                self._streaks.pop(key, None)
            else:
                sign, streak = (1 if rate else -1), self._streaks.get(key, 0)
                self._streaks[key] = streak + sign if streak * sign > 0 else sign

    def members(self, questions: Sequence[Question], rng: np.random.Generator) -> list[int]:
        """Positions of the questions that take part in an epoch which begins now."""
        chances = rng.random(len(questions))
        chosen = [
            place
            for place, (question, chance) in enumerate(zip(questions, chances, strict=True))
            if chance < self._probability(question.id)
        ] or list(range(len(questions)))
        for question in questions:
            self._skips[question.id] = self._skips.get(question.id, 0) + 1
        for place in chosen:
            del self._skips[questions[place].id]
        return chosen

    def num_retired(self) -> int:
        """Questions that are retired."""
        return sum(self._is_retired(key) for key in self._streaks)

    def state_dict(self) -> dict[str, Any]:
        """The played questions and how interesting they were, as plain data."""
        return {
            "rates": dict(self._rates),
            "streaks": dict(self._streaks),
            "skips": dict(self._skips),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where `state` was taken."""
        self._rates = dict(state["rates"])
        self._streaks, self._skips = dict(state["streaks"]), dict(state["skips"])

    def _probability(self, key: str) -> float:
        if self._is_retired(key):
            return self._options.retire_return_chance
        rate = self._rates.get(key)
        if self._options.priority == "uniform" or rate is None:
            return 1.0
        if self._skips.get(key, 0) >= self._options.priority_max_skips:
            return 1.0
        return 4 * rate * (1 - rate)

    def _is_retired(self, key: str) -> bool:
        after = self._options.retire_after
        return after is not None and abs(self._streaks.get(key, 0)) >= after

"""A cap on the searches of a step, or on those of all steps so far."""

from collections.abc import Mapping, Sequence
from typing import Any

from ur2.curriculum.outcome import GroupOutcome
from ur2.errors import InputError


class SearchBudget:
    """Reserves, for each group with retrieval, as many searches as it can make at most.

    No step spends more than `per_step` times (1 + `carry_steps`), and no steps from the first more
    than `per_step` times their number: what a group did not use is free for later steps only.

    Args:
        per_step: searches.
        carry_steps: how many steps' budgets may be saved.
        worst_case: searches that one group can make.

    Raises:
        InputError: not one group fits.
    """

    def __init__(self, per_step: int, carry_steps: int, worst_case: int) -> None:
        self._per_step = per_step
        self._most = per_step * (1 + carry_steps)
        self._worst_case = worst_case
        if self._most < worst_case:
            raise InputError(
                f"curriculum.search_budget_per_step={per_step} has room for no group: its samples "
                f"may make {worst_case} searches (rollout.samples_per_prompt x max_searches); "
                "raise it, or save it over steps with curriculum.search_budget_carry_steps"
            )
        self._step = 0
        self._left = 0
        self._unused = 0
        self._num_denied = 0

    def take(self, step: int) -> bool:
        """Whether there is room for a group of this step; if so it is taken."""
        if step > self._step:
            new = (step - self._step) * self._per_step
            self._left = min(self._left + self._unused + new, self._most)
            self._step, self._unused, self._num_denied = step, 0, 0
        if self._left < self._worst_case:
            self._num_denied += 1
            return False
        self._left -= self._worst_case
        return True

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        """Gives back what groups did not use."""
        for outcome in outcomes:
            if outcome.retrieval:
                self._unused += self._worst_case - outcome.num_searches

    def metrics(self) -> dict[str, float]:
        """Searches left to this step, and its groups for which none were left."""
        return {
            "curriculum/search_budget_left": float(self._left),
            "curriculum/search_budget_denied": float(self._num_denied),
        }

    def state_dict(self) -> dict[str, Any]:
        """Counters, as plain data."""
        return {
            "step": self._step,
            "left": self._left,
            "unused": self._unused,
            "num_denied": self._num_denied,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where `state` was taken."""
        self._step, self._left = state["step"], state["left"]
        self._unused, self._num_denied = state["unused"], state["num_denied"]

"""Decides per group whether retrieval is on: pure state machines of (seed, history)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ur2.curriculum.adaptive import Adaptive
from ur2.curriculum.events import Switch
from ur2.curriculum.options import CurriculumOptions, PolicyName
from ur2.curriculum.outcome import GroupOutcome
from ur2.types import Question


class RetrievalPolicy(Protocol):
    """Decides for one group, and learns from how groups did."""

    def decide(self, question: Question, step: int, rng: np.random.Generator) -> tuple[bool, str]:
        """Whether retrieval is on, and why (goes into the assignment)."""

    def prefers(self, question: Question) -> bool:
        """Whether retrieval is more often on than off for it, exploration aside."""

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        """Takes in how groups of any mode did; decisions of later steps may rest on it."""

    def take_events(self) -> list[Switch]:
        """Switches since the last call."""

    def metrics(self) -> dict[str, float]:
        """The policy's beliefs, by bucket."""

    def state_dict(self) -> dict[str, Any]:
        """All that decisions rest on beside `rng`, as plain data for JSON."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where `state` was taken."""


class _Fixed:
    """Learns nothing."""

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        """Ignores them."""

    def take_events(self) -> list[Switch]:
        """A fixed policy switches nothing."""
        return []

    def metrics(self) -> dict[str, float]:
        """A fixed policy believes nothing."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Has nothing to restore."""


class Constant(_Fixed):
    """The same for every group."""

    def __init__(self, retrieval: bool, reason: str) -> None:
        self._decision = (retrieval, reason)

    def decide(self, question: Question, step: int, rng: np.random.Generator) -> tuple[bool, str]:
        """Ignores all arguments."""
        return self._decision

    def prefers(self, question: Question) -> bool:
        """As decided."""
        return self._decision[0]


class Static(_Fixed):
    """A fixed probability per bucket, as in UR² (arXiv 2508.06165)."""

    def __init__(self, probabilities: Mapping[str, float], without: Sequence[str] = ()) -> None:
        self._probabilities = dict(probabilities)
        self._without = frozenset(without)

    def decide(self, question: Question, step: int, rng: np.random.Generator) -> tuple[bool, str]:
        """Draws one number of `rng`, whatever the bucket."""
        probability = self._probability(question)
        reason = f"static {question.bucket} p={probability:.2f}"
        return bool(rng.random() < probability), reason

    def prefers(self, question: Question) -> bool:
        """Where the table says at least one half."""
        return self._probability(question) >= 0.5

    def _probability(self, question: Question) -> float:
        is_left_out = not self._without.isdisjoint((question.subject, question.meta.get("source")))
        return 0.0 if is_left_out else self._probabilities.get(question.bucket, 0.0)


POLICIES: Mapping[PolicyName, Callable[[CurriculumOptions], RetrievalPolicy]] = {
    "never": lambda options: Constant(False, "never"),
    "always": lambda options: Constant(True, "always"),
    "static": lambda options: Static(options.static, options.without_retrieval),
    "adaptive": lambda options: Adaptive(options.adaptive, options.cost_per_search),
}

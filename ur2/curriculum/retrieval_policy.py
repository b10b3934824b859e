"""Decides per group whether retrieval is on; the decision follows from its arguments alone."""

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from ur2.curriculum.options import CurriculumOptions, PolicyName
from ur2.types import Question


class RetrievalPolicy(Protocol):
    """Decides for one group."""

    def decide(self, question: Question, step: int, rng: np.random.Generator) -> tuple[bool, str]:
        """Whether retrieval is on, and why (goes into the assignment)."""


class Constant:
    """The same for every group."""

    def __init__(self, retrieval: bool, reason: str) -> None:
        self._decision = (retrieval, reason)

    def decide(self, question: Question, step: int, rng: np.random.Generator) -> tuple[bool, str]:
        """Ignores all arguments."""
        return self._decision


class Static:
    """A fixed probability per bucket, as in UR² (arXiv 2508.06165)."""

    def __init__(self, probabilities: Mapping[str, float]) -> None:
        self._probabilities = dict(probabilities)

    def decide(self, question: Question, step: int, rng: np.random.Generator) -> tuple[bool, str]:
        """Draws one number of `rng`, whatever the bucket."""
        probability = self._probabilities.get(question.bucket, 0.0)
        reason = f"static {question.bucket} p={probability:.2f}"
        return bool(rng.random() < probability), reason


POLICIES: Mapping[PolicyName, Callable[[CurriculumOptions], RetrievalPolicy]] = {
    "never": lambda options: Constant(False, "never"),
    "always": lambda options: Constant(True, "always"),
    "static": lambda options: Static(options.static),
}

"""Draws the assignments of each step, and counts what was solved with and without retrieval."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from ur2.curriculum.options import CurriculumOptions
from ur2.curriculum.retrieval_policy import POLICIES
from ur2.curriculum.sampler import Sampler
from ur2.types import Assignment, Question, ScoredGroup

_MODES = {True: "with_retrieval", False: "without_retrieval"}


class Curriculum:
    """Question order, retrieval decisions and their record; resumable at any step.

    Args:
        questions: what to train on.
        options: the mix and the retrieval policy.
        seed: of the order and of the decisions.
        questions_per_step: groups per step.

    Raises:
        InputError: there is no question, or `options` does not fit the questions.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        options: CurriculumOptions,
        seed: int,
        questions_per_step: int,
    ) -> None:
        self._sampler = Sampler(questions, options.bucket_weights, seed)
        self._policy = POLICIES[options.policy](options)
        self._rng = np.random.default_rng(seed)
        self._questions_per_step = questions_per_step
        self._solved: dict[str, dict[str, dict[str, float]]] = {}
        self._last_decisions: dict[str, list[bool]] = {}

    def draw(self, step: int) -> list[Assignment]:
        """The assignments of the next step; `step` names them and is seen by the policy."""
        assignments = [self._assignment(step, i) for i in range(self._questions_per_step)]
        decisions = defaultdict(list)
        for assignment in assignments:
            decisions[assignment.question.bucket].append(assignment.retrieval)
        self._last_decisions = dict(decisions)
        return assignments

    def observe(self, scored: Sequence[ScoredGroup]) -> None:
        """Counts samples and correctness per bucket and retrieval mode."""
        for group in scored:
            assignment = group.group.assignment
            modes = self._solved.setdefault(assignment.question.bucket, {})
            empty = {"num_samples": 0.0, "num_correct": 0.0}
            counts = modes.setdefault(_MODES[assignment.retrieval], empty)
            counts["num_samples"] += len(group.scores)
            counts["num_correct"] += sum(score.correct for score in group.scores)

    def metrics(self) -> dict[str, float]:
        """Shares of groups with retrieval in the last step, and solve rates since the start."""
        rates = {
            f"curriculum/retrieval_rate/{bucket}": fmean(decisions)
            for bucket, decisions in sorted(self._last_decisions.items())
        }
        solved = {
            f"curriculum/solved_{mode}/{bucket}": counts["num_correct"] / counts["num_samples"]
            for bucket, modes in sorted(self._solved.items())
            for mode, counts in sorted(modes.items())
            if counts["num_samples"]
        }
        return rates | solved

    def state_dict(self) -> dict[str, Any]:
        """Everything the stream depends on, as plain data for JSON."""
        return {
            "sampler": self._sampler.state_dict(),
            "rng": dict(self._rng.bit_generator.state),
            "solved": {
                bucket: {mode: dict(counts) for mode, counts in modes.items()}
                for bucket, modes in self._solved.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues the stream where `state` was taken.

        Raises:
            InputError: the questions are not those of the checkpoint.
        """
        self._sampler.load_state_dict(state["sampler"])
        self._rng.bit_generator.state = dict(state["rng"])
        self._solved = {
            bucket: {mode: dict(counts) for mode, counts in modes.items()}
            for bucket, modes in state["solved"].items()
        }

    def _assignment(self, step: int, position: int) -> Assignment:
        question = self._sampler.draw()
        retrieval, reason = self._policy.decide(question, step, self._rng)
        return Assignment(
            id=f"{step:06d}-{position:04d}",
            question=question,
            retrieval=retrieval,
            reason=reason,
            step=step,
        )

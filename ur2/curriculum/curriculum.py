"""Draws the assignments of each step, and counts what was solved with and without retrieval."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from ur2.curriculum.events import Event
from ur2.curriculum.options import CurriculumOptions
from ur2.curriculum.outcome import Outcome
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
        self._step = 0
        self._num_drawn_of_step = 0

    def draw(self, step: int, num_groups: int | None = None) -> list[Assignment]:
        """The next assignments, by default as many as a step has.

        Args:
            step: names them and is seen by the policy; it never goes back.
            num_groups: how many; further calls with the same step add to it.
        """
        if step > self._step:
            self._step, self._num_drawn_of_step = step, 0
            self._last_decisions = {}
        count = self._questions_per_step if num_groups is None else num_groups
        assignments = [self._assignment() for _ in range(count)]
        for assignment in assignments:
            decisions = self._last_decisions.setdefault(assignment.question.bucket, [])
            decisions.append(assignment.retrieval)
        return assignments

    def observe(self, scored: Sequence[ScoredGroup]) -> None:
        """Counts what was solved per bucket and mode; the retrieval policy learns from it."""
        outcomes = [Outcome.of(group) for group in scored]
        self._policy.observe(outcomes)
        for outcome in outcomes:
            modes = self._solved.setdefault(outcome.question.bucket, {})
            empty = {"num_samples": 0.0, "num_correct": 0.0}
            counts = modes.setdefault(_MODES[outcome.retrieval], empty)
            counts["num_samples"] += outcome.num_samples
            counts["num_correct"] += outcome.num_correct

    def take_events(self) -> list[Event]:
        """What was decided since the last call, for the run's log."""
        return self._policy.take_events()

    def metrics(self) -> dict[str, float]:
        """Retrieval rates of the last step, solve rates since the start, the policy's beliefs."""
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
        return rates | solved | self._policy.metrics()

    def state_dict(self) -> dict[str, Any]:
        """Everything the stream depends on, as plain data for JSON."""
        return {
            "step": self._step,
            "num_drawn_of_step": self._num_drawn_of_step,
            "sampler": self._sampler.state_dict(),
            "rng": dict(self._rng.bit_generator.state),
            "policy": self._policy.state_dict(),
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
        self._step = int(state["step"])
        self._num_drawn_of_step = int(state["num_drawn_of_step"])
        self._sampler.load_state_dict(state["sampler"])
        self._rng.bit_generator.state = dict(state["rng"])
        self._policy.load_state_dict(state["policy"])
        self._solved = {
            bucket: {mode: dict(counts) for mode, counts in modes.items()}
            for bucket, modes in state["solved"].items()
        }

    def _assignment(self) -> Assignment:
        step, position = self._step, self._num_drawn_of_step
        self._num_drawn_of_step += 1
        question = self._sampler.draw()
        retrieval, reason = self._policy.decide(question, step, self._rng)
        return Assignment(
            id=f"{step:06d}-{position:04d}",
            question=question,
            retrieval=retrieval,
            reason=reason,
            step=step,
        )

"""Retrieval where it is measured to help: a bandit with two arms for each bucket.

The learner is part of the world here. A policy that does not search yet gains nothing from
retrieval and would never learn to if it were turned off; one that knows the answers by now pays for
searches that bring nothing. Hence retrieval starts on, is turned off only where searches are made
and credibly do not pay, evidence fades, and both modes stay measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import NormalDist
from typing import Any

import numpy as np

from ur2.curriculum.events import Switch
from ur2.curriculum.options import AdaptiveOptions
from ur2.curriculum.outcome import GroupOutcome
from ur2.curriculum.posterior import Arm, Bucket
from ur2.types import Question

SURE = NormalDist().inv_cdf(0.95)
"""Deviations from zero at which the sign of what retrieval is worth needs little checking."""
CHECKS = 0.25
"""The share of exploration that remains then."""


class Adaptive:
    """Turns retrieval on where the gain exceeds its price, off where it does not.

    A bucket has one mode within a step; a share of its groups explores the other one. Questions
    that are solved without retrieval time and again (`leaves_after`) count for neither mode, so
    that both are measured on the same questions.

    Args:
        options: when to switch.
        cost_per_search: the price of a search, in solved questions.
    """

    def __init__(self, options: AdaptiveOptions, cost_per_search: float) -> None:
        self._options = options
        self._cost_per_search = cost_per_search
        self._first_step = self._step = 0
        self._buckets: dict[str, Bucket] = {}
        self._solved_in_a_row: dict[str, int] = {}
        self._events: list[Switch] = []

    def decide(self, question: Question, step: int, rng: np.random.Generator) -> tuple[bool, str]:
        """Draws one number of `rng`, whatever the question."""
        self._enter(step)
        chance = rng.random()
        name = question.bucket
        if self._has_left(question):
            return False, f"adaptive {name} solved without"
        bucket = self._bucket(name)
        bucket.exploration_due += self._exploration(bucket)
        if chance < bucket.exploration_due:
            bucket.exploration_due -= 1
            return not bucket.retrieval, f"adaptive {name} explores"
        mode = "on" if bucket.retrieval else "off"
        return bucket.retrieval, f"adaptive {name} {mode} gain={bucket.gain:+.2f}"

    def prefers(self, question: Question) -> bool:
        """The mode of its bucket, unless it has left."""
        bucket = self._buckets.get(question.bucket)
        on = self._options.starts_on if bucket is None else bucket.retrieval
        return on and not self._has_left(question)

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        """Counts the groups; the next step's decisions rest on them."""
        for outcome in outcomes:
            if not self._has_left(outcome.question):
                bucket = self._bucket(outcome.question.bucket)
                arm = bucket.on if outcome.retrieval else bucket.off
                arm.add(outcome, self._options.group_correlation)
            if not outcome.retrieval:
                self._remember(outcome)

    def take_events(self) -> list[Switch]:
        """The switches since the last call."""
        events, self._events = self._events, []
        return events

    def metrics(self) -> dict[str, float]:
        """Mode, gain, its lower bound and the price by bucket."""
        values: dict[str, float] = {}
        for name, bucket in sorted(self._buckets.items()):
            values |= {
                f"curriculum/retrieval_on/{name}": float(bucket.retrieval),
                f"curriculum/gain/{name}": bucket.gain,
                f"curriculum/gain_lower/{name}": bucket.lower_gain(self._options.confidence),
                f"curriculum/price/{name}": self._price(bucket),
            }
        if self._options.leaves_after is not None:
            left = sum(k >= self._options.leaves_after for k in self._solved_in_a_row.values())
            values["curriculum/solved_without"] = float(left)
        return values

    def state_dict(self) -> dict[str, Any]:
        """Step, buckets and streaks, as plain data."""
        return {
            "first_step": self._first_step,
            "step": self._step,
            "buckets": {name: asdict(bucket) for name, bucket in self._buckets.items()},
            "solved_in_a_row": dict(self._solved_in_a_row),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where `state` was taken."""
        self._first_step, self._step = state["first_step"], state["step"]
        self._buckets = {
            name: Bucket(**{**kept, "on": Arm(**kept["on"]), "off": Arm(**kept["off"])})
            for name, kept in state["buckets"].items()
        }
        self._solved_in_a_row = dict(state["solved_in_a_row"])
        self._events = []

    def _enter(self, step: int) -> None:
        """At the first decision of a step: switches what the evidence asks for, and lets it age."""
        if step <= self._step:
            return
        self._first_step = self._first_step or step
        factor = 0.5 ** ((step - self._step) / self._options.half_life_steps)
        for name, bucket in self._buckets.items():
            self._switch(name, bucket, step)
            for arm in bucket.arms:
                arm.fade(factor)
        self._step = step

    def _switch(self, name: str, bucket: Bucket, step: int) -> None:
        """Turns a bucket on at `confidence`, off at `hysteresis` below it."""
        options = self._options
        early = step - self._first_step < options.patience_steps
        if bucket.retrieval and (early or self._is_idle(bucket)):
            return
        if bucket.num_groups < options.min_groups:
            return
        needed = options.confidence - (options.hysteresis if bucket.retrieval else 0.0)
        lower, price = bucket.lower_gain(needed), self._price(bucket)
        if (lower > price) == bucket.retrieval:
            return
        bucket.retrieval = not bucket.retrieval
        self._events.append(
            Switch(
                step=step,
                bucket=name,
                retrieval=bucket.retrieval,
                gain=bucket.gain,
                lower=lower,
                price=price,
                solved_with=bucket.solved(bucket.on).mean,
                solved_without=bucket.solved(bucket.off).mean,
                num_groups_with=bucket.on.num_groups,
                num_groups_without=bucket.off.num_groups,
            )
        )

    def _exploration(self, bucket: Bucket) -> float:
        """The share that explores: little of it where there is nothing to find out."""
        worth = bucket.gain - self._price(bucket)
        if abs(worth) > SURE * bucket.deviation or self._is_idle(bucket):
            return CHECKS * self._options.exploration
        return self._options.exploration

    def _is_idle(self, bucket: Bucket) -> bool:
        """Whether retrieval is on and hardly used, so that turning it off would save nothing."""
        return bucket.retrieval and bucket.on.searches_per_sample < self._options.min_searches

    def _price(self, bucket: Bucket) -> float:
        return self._cost_per_search * bucket.on.searches_per_sample

    def _bucket(self, name: str) -> Bucket:
        if name not in self._buckets:
            self._buckets[name] = Bucket(retrieval=self._options.starts_on)
        return self._buckets[name]

    def _has_left(self, question: Question) -> bool:
        after = self._options.leaves_after
        return after is not None and self._solved_in_a_row.get(question.id, 0) >= after

    def _remember(self, outcome: GroupOutcome) -> None:
        """Counts groups without retrieval that were solved in a row."""
        after, question = self._options.leaves_after, outcome.question
        if after is None or outcome.pass_rate < 1:
            self._solved_in_a_row.pop(question.id, None)
        else:
            count = self._solved_in_a_row.get(question.id, 0) + 1
            self._solved_in_a_row[question.id] = min(count, after)

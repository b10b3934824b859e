"""Which stage a step belongs to, and when a stage ends."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ur2.curriculum.events import StageChange
from ur2.curriculum.options import PlateauOptions, StageOptions
from ur2.curriculum.outcome import GroupOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStep:
    """Where in the stages a step lies."""

    index: int
    """From 0."""
    name: str
    """Empty where the run has no stages."""
    reward: str | None
    """A key of the run's `rewards`; None: the run's `reward`."""
    step: int
    """Steps of the stage, counted from 1: the schedules of its reward go by it."""


class Stages:
    """The stages of a run; the next one begins with the first draw after a stop rule holds."""

    def __init__(self, stages: Sequence[StageOptions]) -> None:
        self._stages = stages
        self._starts = [1]
        self._history: dict[int, list[float]] = {}
        """By step of the current stage: sum of the plateau's metric, number of samples."""

    @property
    def index(self) -> int:
        """The current stage."""
        return len(self._starts) - 1

    def at(self, step: int) -> StageStep:
        """The stage that a drawn step belongs to."""
        index = max(bisect_right(self._starts, step) - 1, 0)
        stage = self._stages[index] if self._stages else None
        return StageStep(
            index=index,
            name=stage.name if stage else "",
            reward=stage.reward if stage else None,
            step=step - self._starts[index] + 1,
        )

    def enter(self, step: int) -> StageChange | None:
        """Goes to the next stage if the current one is over by this step."""
        reason = self._over(step)
        if reason is None:
            return None
        before, after = self._stages[self.index].name, self._stages[self.index + 1].name
        self._starts.append(step)
        self._history.clear()
        return StageChange(step=step, before=before, after=after, reason=reason)

    def begins(self, step: int) -> bool:
        """Whether a stage after the first begins with this step, as far as is known."""
        return step in self._starts[1:] or self._over(step) is not None

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        """Adds to the history that a plateau is found in."""
        plateau = self._plateau
        if plateau is None:
            return
        for outcome in outcomes:
            if outcome.step >= self._starts[-1]:
                sums = self._history.setdefault(outcome.step, [0.0, 0.0])
                sums[0] += _METRICS[plateau.metric](outcome)
                sums[1] += outcome.num_samples
        for step in sorted(self._history)[: -2 * plateau.window]:
            del self._history[step]

    def state_dict(self) -> dict[str, Any]:
        """Starts and history, as plain data."""
        return {
            "starts": list(self._starts),
            "history": {str(step): list(sums) for step, sums in self._history.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where `state` was taken."""
        self._starts = list(state["starts"])
        self._history = {int(step): list(sums) for step, sums in state["history"].items()}

    @property
    def _plateau(self) -> PlateauOptions | None:
        stop = self._stages[self.index].stop if self._stages else None
        return stop.plateau if stop else None

    def _over(self, step: int) -> str | None:
        """Why the current stage ends before this step; None: it does not."""
        stop = self._stages[self.index].stop if self._stages else None
        done = step - self._starts[-1]
        if stop is None or done < stop.min_steps:
            return None
        if stop.steps is not None and done >= stop.steps:
            return f"{done} steps"
        plateau = stop.plateau
        if plateau is None or len(self._history) < 2 * plateau.window:
            return None
        means = [self._history[key][0] / self._history[key][1] for key in sorted(self._history)]
        before, last = fmean(means[: plateau.window]), fmean(means[plateau.window :])
        if last - before >= plateau.min_gain:
            return None
        return (
            f"{plateau.metric} {before:.3f} -> {last:.3f} in {plateau.window} steps gained less "
            f"than {plateau.min_gain:g}"
        )


_METRICS = {
    "reward": lambda outcome: outcome.reward * outcome.num_samples,
    "accuracy": lambda outcome: outcome.num_correct,
    "searches": lambda outcome: outcome.num_searches,
}

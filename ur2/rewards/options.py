"""Options of the rubric: terms, gates, weights by step, graders."""

from typing import Literal, Self

from pydantic import Field, model_validator

from ur2.options import Options
from ur2.types import Level, Task

GraderName = Literal["exact_match", "cover_exact_match", "f1", "choice", "equivalent"]
TermKind = Literal["answer", "format", "searches", "search_bonus", "unsearchable"]


class WeightPhase(Options):
    """A weight that holds up to a step."""

    value: float
    """The weight."""
    until: int | None = Field(None, ge=1)
    """The last step, counted from 1, at which it holds; None: it holds to the end."""


class TermOptions(Options):
    """One part of the reward: weight times what its kind measures, where its gates are open."""

    kind: TermKind
    """`answer`: the grade of the final answer, 0 to 1; `format`: 1 without a violation, else 0;
    `searches`: the number of searches; `search_bonus`: `values` at the number of searches;
    `unsearchable`: the number of searches answered as not searchable."""
    weight: float | tuple[WeightPhase, ...] = 1.0
    """A number, or phases in order of their last step; after the last phase the weight is 0."""
    tasks: tuple[Task, ...] | None = None
    """Tasks it applies to; None: all."""
    levels: tuple[Level, ...] | None = None
    """Levels it applies to; None: all."""
    retrieval: bool | None = None
    """Applies only where retrieval is on (true) or off (false); None: both."""
    values: tuple[float, ...] = ()
    """Of `search_bonus`: the value at 0, 1, 2, ... searches; the last holds for more."""
    clip: tuple[float, float] | None = None
    """The lowest and highest weighted value."""

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if (self.kind == "search_bonus") != bool(self.values):
            raise ValueError("`values` belongs to kind 'search_bonus', which needs it")
        if self.clip is not None and self.clip[0] > self.clip[1]:
            raise ValueError("`clip` is [lowest, highest]")
        if isinstance(self.weight, tuple):
            ends = [float("inf") if p.until is None else p.until for p in self.weight]
            if not ends or sorted(set(ends)) != ends:
                raise ValueError("`weight` is a list of phases with increasing `until`")
        return self

    def weight_at(self, step: int) -> float:
        """The weight at a step, counted from 1."""
        if not isinstance(self.weight, tuple):
            return self.weight
        return next((p.value for p in self.weight if p.until is None or step <= p.until), 0.0)


class RewardOptions(Options):
    """The reward of a trajectory: the sum of its terms."""

    terms: dict[str, TermOptions]
    """Terms by the name that they have in metrics."""
    graders: dict[Task, GraderName]
    """How the final answer of each task is graded, for the `answer` term and for accuracy; a task
    without a grader is refused."""
    clip: tuple[float, float] | None = None
    """The lowest and highest total."""

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if "clip" in self.terms:
            raise ValueError("a term cannot be called 'clip': it names what clipping changed")
        if self.clip is not None and self.clip[0] > self.clip[1]:
            raise ValueError("`clip` is [lowest, highest]")
        return self

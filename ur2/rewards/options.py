"""Options of the rubric: terms, gates, weights by step, graders, the judge."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, model_validator

from ur2.endpoints.options import EndpointOptions, Seconds
from ur2.options import Options
from ur2.rewards.math import CPU_S, TIMEOUT_S
from ur2.rewards.math_compare import PercentRule
from ur2.rewards.qa import Normalise
from ur2.types import Level, Task

Verdict = Literal["correct", "partially correct", "incorrect"]
UnscoredRule = Literal["exact", "zero", "group_mean", "fail"]


class WeightPhase(Options):
    """A value that holds up to a step."""

    value: float
    """The value."""
    until: int | None = Field(None, ge=1)
    """The last step, counted from 1, at which it holds; None: it holds to the end."""


def _are_ordered(schedule: float | tuple[WeightPhase, ...]) -> float | tuple[WeightPhase, ...]:
    if isinstance(schedule, tuple):
        ends = [float("inf") if p.until is None else p.until for p in schedule]
        if not ends or sorted(set(ends)) != ends:
            raise ValueError("a schedule is a list of phases with increasing `until`")
    return schedule


Schedule = Annotated[float | tuple[WeightPhase, ...], AfterValidator(_are_ordered)]
"""A number, or phases in order of their last step; after the last phase it is 0."""


def at_step(schedule: Schedule, step: int) -> float:
    """The value of a schedule at a step, counted from 1."""
    if not isinstance(schedule, tuple):
        return schedule
    return next((p.value for p in schedule if p.until is None or step <= p.until), 0.0)


class TermOptions(Options):
    """One part of the reward: weight times what its kind measures, where its gates are open."""

    kind: str
    """`answer`: the grade of the final answer, 0 to 1; `format`: 1 without a violation, else 0;
    `violations`: their number; `searches`: the number of searches; `search_bonus`: `values` at the
    number of searches; `unsearchable`: the number of searches answered as not searchable;
    `earned`: what the environment gave each turn; `constant`: 1. Or `package.module:Name`, a
    `TermFacts` of your own or a function of a `GradedTrajectory`."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Options of a kind of your own, which says what there are."""
    weight: Schedule = 1.0
    """A number, or phases in order of their last step; after the last phase the weight is 0."""
    tasks: tuple[Task, ...] | None = None
    """Tasks it applies to; None: all."""
    levels: tuple[Level, ...] | None = None
    """Levels it applies to; None: all."""
    retrieval: bool | None = None
    """Applies only where retrieval is on (true) or off (false); None: both."""
    requires: tuple[str, ...] = ()
    """Names of terms: this one counts only where each of them measures 1 or more, before weights.
    `constant` with `requires` is a bonus for meeting all of them."""
    unless: tuple[str, ...] = ()
    """Names of terms: this one counts only where none of them measures 1 or more."""
    values: tuple[float, ...] = ()
    """For `search_bonus`, the value at 0, 1, 2, ... searches; the last holds for more."""
    clip: tuple[float, float] | None = None
    """The lowest and highest weighted value; of each turn, where the kind measures turns."""

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.clip is not None and self.clip[0] > self.clip[1]:
            raise ValueError("`clip` is [lowest, highest]")
        return self

    def weight_at(self, step: int) -> float:
        """The weight at a step, counted from 1."""
        return at_step(self.weight, step)


class MathOptions(Options):
    """The grader `equivalent`: its rule for percentages, and the limits of one comparison."""

    percent: PercentRule = "either"
    """What 25% equals: `either` 0.25 or 25, since a question may ask for either; `hundredths`:
    0.25; `number`: 25."""
    timeout_s: float = Field(TIMEOUT_S, gt=0)
    """Seconds on the clock."""
    cpu_s: float = Field(CPU_S, gt=0)
    """Processor seconds; real answers take a few hundredths. Evaluation has the same limits."""
    unscored: UnscoredRule = "group_mean"
    """The worth of an answer whose comparison went over a limit, where no judge decides: as
    `judge.unscored`, and `exact` is 0."""


class QaOptions(Options):
    """The graders `exact_match`, `cover_exact_match` and `f1`."""

    normalise: Normalise = "squad"
    """The fate of punctuation: `squad` deletes it, as SQuAD, HotpotQA and Search-R1 do; `spaces`
    puts spaces, as UR² does ("Alzheimer's" is two words)."""
    keep_marks: bool = False
    """Keep marks that bear a meaning, so that 3.5 is not 35, -5 not 5 and C++ not C; no published
    table does."""


class JudgeOptions(EndpointOptions):
    """A language model that grades what the task's grader did not find fully right."""

    tasks: tuple[Task, ...]
    """Tasks whose answers it sees where their grade is below 1."""
    unscored: UnscoredRule
    """The worth of an answer without a verdict (`reward/unscored_fraction` shows how many):
    `exact`: the grader's own grade; `zero`: 0; `group_mean`: the trajectory gets the mean reward of
    its group's others, so that it carries no advantage; `fail`: the run stops."""
    grades: dict[Verdict, float] = Field(
        {"correct": 1.0, "partially correct": 0.5, "incorrect": 0.0}
    )
    """The grade of each verdict, 0 to 1."""
    deadline_s: Seconds = 60.0
    """Seconds for all tries of an answer."""

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if set(self.grades) != {"correct", "partially correct", "incorrect"}:
            raise ValueError("`grades` names correct, partially correct and incorrect")
        if not all(0 <= grade <= 1 for grade in self.grades.values()):
            raise ValueError("`grades` are between 0 and 1")
        return self


class RewardOptions(Options):
    """The reward of a trajectory: the sum of its terms."""

    terms: dict[str, TermOptions]
    """Terms by the name that they have in metrics."""
    graders: dict[Task, str]
    """How the final answer of each task is graded, for the `answer` term and for accuracy:
    `exact_match`, `cover_exact_match`, `f1`, `choice`, `equivalent`, or `package.module:Name`, a
    `GraderFacts` of your own or a function of answer and question. A task without a grader is
    refused."""
    grader_options: dict[Task, dict[str, JsonValue]] = Field(default_factory=dict)
    """Options of graders of your own, by task."""
    min_searches: Schedule = 0.0
    """Fewer searches than this are a format violation where retrieval is on; a number or phases."""
    as_published: bool = False
    """Check the form as UR²'s reward servers do: an empty `\\boxed{}` is one answer, searching
    where retrieval is off is no violation, and where the policy neither was shown how to search nor
    tried to, violations cost nothing beyond the point for a clean form."""
    clip: tuple[float, float] | None = None
    """The lowest and highest total."""
    math: MathOptions = MathOptions()
    """Rules and limits of the grader `equivalent`."""
    qa: QaOptions = QaOptions()
    """Rules of the graders of words."""
    judge: JudgeOptions | None = None
    """Grades after the graders; None: the graders' word is final."""

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        reserved = {
            "clip": "what clipping changed",
            "unscored": "what a missing verdict changed",
            "turns": "what the environment rewarded where no term of kind 'earned' weighs that",
        }
        for name in reserved.keys() & self.terms.keys():
            raise ValueError(f"a term cannot be called '{name}': it names {reserved[name]}")
        for name, term in self.terms.items():
            unknown = sorted({*term.requires, *term.unless} - self.terms.keys())
            if unknown:
                raise ValueError(f"term '{name}' names '{unknown[0]}', which is no term")
        if self.clip is not None and self.clip[0] > self.clip[1]:
            raise ValueError("`clip` is [lowest, highest]")
        for task in self.grader_options.keys() - self.graders.keys():
            raise ValueError(f"`grader_options.{task}` has no grader in `graders`")
        return self

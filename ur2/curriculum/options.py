"""Options of the curriculum."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ur2.options import Options

PolicyName = Literal["never", "always", "static", "adaptive"]
BucketName = Annotated[str, Field(pattern=r"^(choice|qa|math)/(easy|medium|hard|very_hard)$")]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0)]


class LevelOptions(Options):
    """The lowest pass rate of each level, without retrieval; below all it is very_hard."""

    easy: Probability = 0.75
    """Solved in most attempts."""
    medium: Probability = 0.5
    """Solved in about every other one."""
    hard: Probability = 0.125
    """Solved now and then."""

    @model_validator(mode="after")
    def _fall(self) -> Self:
        if not self.easy > self.medium > self.hard > 0:
            raise ValueError("pass rates must fall from easy to hard and stay above 0")
        return self


class AdaptiveOptions(Options):
    """How policy `adaptive` measures the gain from retrieval per bucket, and when it switches."""

    starts_on: bool = True
    """Whether retrieval is on before there is evidence. A policy that cannot search yet learns it
    only where it may."""
    exploration: float = Field(0.08, gt=0, le=0.5)
    """The share of a bucket's groups that get the other mode, so that both stay measured; a quarter
    of it where the sign of the gain is sure, or where retrieval is on and hardly used."""
    half_life_steps: float = Field(20.0, gt=0)
    """Steps after which an observation counts half: the policy changes while it is measured."""
    min_groups: float = Field(3.0, ge=0)
    """Groups in each mode, older ones counting less, before a bucket may switch."""
    min_searches: float = Field(0.2, ge=0)
    """Searches per sample below which a bucket is not turned off: it would save nothing, and the
    policy may not have learned to search yet."""
    patience_steps: int = Field(10, ge=0)
    """No bucket is turned off in this many steps from the first."""
    confidence: float = Field(0.8, ge=0.5, lt=1)
    """A bucket is turned on where the gain exceeds the price of its searches with at least this
    credibility."""
    hysteresis: float = Field(0.4, ge=0, lt=1)
    """It is turned off where that credibility has fallen below `confidence` by more than this."""
    group_correlation: Probability = 0.5
    """How alike the samples of a group are: m samples count as m / (1 + (m - 1) correlation)."""
    leaves_after: int | None = Field(3, ge=1)
    """A question solved by all its samples in this many groups without retrieval in a row has
    retrieval off, until it is not; None: its bucket alone decides."""

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        if self.hysteresis >= self.confidence:
            raise ValueError("`hysteresis` must be below `confidence`")
        return self


class PlateauOptions(Options):
    """A metric of the training groups that no longer rises."""

    metric: Literal["reward", "accuracy", "searches"] = "reward"
    """The mean over the samples of a step: of the reward, of correctness, of searches."""
    window: int = Field(10, ge=1)
    """Steps that are averaged: the last so many against as many before them."""
    min_gain: float = 0.01
    """The plateau is there once the metric rose by less than this."""


class StopOptions(Options):
    """When a stage ends: at the first of its rules that holds."""

    steps: int | None = Field(None, ge=1)
    """After this many steps."""
    plateau: PlateauOptions | None = None
    """At a plateau."""
    min_steps: int = Field(1, ge=1)
    """But not before it has lasted this many steps."""

    @model_validator(mode="after")
    def _can_hold(self) -> Self:
        if self.steps is None and self.plateau is None:
            raise ValueError("a stop rule needs `steps` or `plateau`")
        if self.steps is not None and self.steps < self.min_steps:
            raise ValueError("`steps` must not be below `min_steps`")
        return self


class StageOptions(Options):
    """One part of a run; what it does not set is the curriculum's."""

    name: str = Field(pattern=r"^[\w-]+$")
    """Its name in logs and metrics."""
    questions: str | None = None
    """Its question file; None: the run's training file."""
    reward: str | None = None
    """Its reward, a key of the run's `rewards`; None: the run's `reward`."""
    policy: PolicyName | None = None
    """Its retrieval policy."""
    static: dict[BucketName, Probability] | None = None
    """Its table of policy `static`."""
    bucket_weights: dict[BucketName, Weight] | None = None
    """Its mix of buckets."""
    stop: StopOptions | None = None
    """When it ends. The last stage has none: it lasts to the end of the run."""


class CurriculumOptions(Options):
    """Which questions are drawn, and when their groups may search. A bucket is task/level."""

    policy: PolicyName = "static"
    """Retrieval is on for no group (`never`), for all (`always`), by `static`'s table, or where it
    is measured to help (`adaptive`)."""
    static: dict[BucketName, Probability] = Field(default_factory=dict)
    """Under policy `static`, the probability per bucket that retrieval is on; 0 for others."""
    without_retrieval: tuple[str, ...] = ()
    """Subjects or sources whose questions have no retrieval under policy `static`, whatever their
    bucket. UR²'s published code leaves out `law` so, by an omission."""
    adaptive: AdaptiveOptions = AdaptiveOptions()
    """Options of policy `adaptive`."""
    cost_per_search: float = Field(0.02, ge=0)
    """The price of one search, in solved questions: `adaptive` keeps retrieval on where the gain
    exceeds it, and `curriculum/cost` counts it. It is no part of the reward."""
    search_budget_per_step: int | None = Field(None, ge=1)
    """Searches that the groups of a step may make at most; a group for which no budget is left, if
    all its samples searched as often as they may, has retrieval off. None: no limit. Held-out
    questions are not counted."""
    search_budget_carry_steps: int = Field(0, ge=0)
    """How many steps' budgets may be saved for later steps. 0: each step's limit is strict, and as
    groups seldom search as often as they may, much of it stays unused; else a step may spend more,
    and what holds strictly is the sum: never more than the budgets of the steps so far."""
    bucket_weights: dict[BucketName, Weight] = Field(default_factory=dict)
    """The mix of buckets, in any unit; buckets that are not named are not drawn. Empty: every
    bucket by its number of questions."""
    priority: Literal["uniform", "variance"] = "uniform"
    """`uniform`: every epoch of a bucket has all its questions. `variance`: a question with pass
    rate p takes part in an epoch with probability 4 p (1 - p), as groups that are all right or all
    wrong teach nothing; one that was not played yet always does."""
    priority_max_skips: int = Field(3, ge=0)
    """Under `variance`, the epochs in a row that a question may be left out."""
    retire_after: int | None = Field(None, ge=1)
    """A question whose last so many groups were all right, or all wrong, throughout is retired;
    None: none is."""
    retire_return_chance: Probability = 0.1
    """The probability that a retired question takes part in an epoch; it is back for good once a
    group of it is neither all right nor all wrong."""
    stages: tuple[StageOptions, ...] = ()
    """Parts of the run, in order; empty: the run is one."""

    @model_validator(mode="after")
    def _stages_are_a_sequence(self) -> Self:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"`stages` have distinct names, not {', '.join(names)}")
        for stage in self.stages[:-1]:
            if stage.stop is None:
                raise ValueError(f"stage '{stage.name}' needs `stop`: another one follows it")
        if self.stages and self.stages[-1].stop is not None:
            raise ValueError(
                f"stage '{names[-1]}' is the last one and takes no `stop`: the run's end is "
                "trainer.steps"
            )
        return self

    def of_stage(self, stage: StageOptions) -> Self:
        """The options that hold in a stage."""
        own = {
            key: value
            for key in ("policy", "static", "bucket_weights")
            if (value := getattr(stage, key)) is not None
        }
        return self.model_copy(update={**own, "stages": ()})

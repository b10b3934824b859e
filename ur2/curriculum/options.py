"""Options of the curriculum."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ur2.options import Options

PolicyName = Literal["never", "always", "static", "adaptive"]
BucketName = Annotated[str, Field(pattern=r"^(choice|qa|math)/(easy|medium|hard|very_hard)$")]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0)]


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
    """No bucket is turned off at this step or earlier."""
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


class CurriculumOptions(Options):
    """Which questions are drawn, and when their groups may search. A bucket is task/level."""

    policy: PolicyName = "static"
    """Retrieval is on for no group (`never`), for all (`always`), by `static`'s table, or where it
    is measured to help (`adaptive`)."""
    static: dict[BucketName, Probability] = Field(default_factory=dict)
    """Of policy `static`: the probability per bucket that retrieval is on; 0 for others."""
    adaptive: AdaptiveOptions = AdaptiveOptions()
    """Of policy `adaptive`."""
    cost_per_search: float = Field(0.02, ge=0)
    """What one search costs, in solved questions: `adaptive` keeps retrieval on where the gain
    exceeds it, and `curriculum/cost` counts it. It is no part of the reward."""
    bucket_weights: dict[BucketName, Weight] = Field(default_factory=dict)
    """The mix of buckets, in any unit; buckets that are not named are not drawn. Empty: every
    bucket by its number of questions."""

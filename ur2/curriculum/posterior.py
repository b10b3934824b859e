"""The belief about a bucket: how often its questions are solved with and without retrieval."""

from dataclasses import dataclass, field
from math import sqrt
from statistics import NormalDist

from ur2.curriculum.outcome import GroupOutcome

PRIOR_WEIGHT = 2.0
"""Samples that the prior counts as."""


@dataclass(frozen=True, slots=True)
class Beta:
    """A Beta distribution by mean and weight: Beta(mean weight, (1 - mean) weight)."""

    mean: float
    weight: float

    @property
    def variance(self) -> float:
        """The variance of a Beta distribution: mean (1 - mean) / (weight + 1)."""
        return self.mean * (1 - self.mean) / (self.weight + 1)


@dataclass(slots=True, kw_only=True)
class Arm:
    """The evidence for one mode of a bucket; older groups count less."""

    num_groups: float = 0.0
    num_samples: float = 0.0
    num_searches: float = 0.0
    weight: float = 0.0
    """Samples, as if they were independent."""
    solved: float = 0.0
    """The part of `weight` that was solved; graded answers count in part."""

    def add(self, outcome: GroupOutcome, correlation: float) -> None:
        """Counts a group; its m samples weigh m / (1 + (m - 1) correlation) (Kish 1965)."""
        weight = outcome.num_samples / (1 + (outcome.num_samples - 1) * correlation)
        self.num_groups += 1
        self.num_samples += outcome.num_samples
        self.num_searches += outcome.num_searches
        self.weight += weight
        self.solved += weight * outcome.pass_rate

    def fade(self, factor: float) -> None:
        """Makes all that was counted weigh less."""
        self.num_groups *= factor
        self.num_samples *= factor
        self.num_searches *= factor
        self.weight *= factor
        self.solved *= factor

    @property
    def searches_per_sample(self) -> float:
        """As measured; 0 before any sample."""
        return self.num_searches / self.num_samples if self.num_samples else 0.0


@dataclass(slots=True, kw_only=True)
class Bucket:
    """Both modes of a bucket, and the one that holds.

    Both posteriors start from the bucket's own rate over both modes, so that where there is no
    evidence of a gain none is assumed.
    """

    retrieval: bool
    on: Arm = field(default_factory=Arm)
    off: Arm = field(default_factory=Arm)
    exploration_due: float = 0.0
    """Groups in the other mode that it is owed; at most 1."""

    @property
    def arms(self) -> tuple[Arm, Arm]:
        """With and without retrieval."""
        return self.on, self.off

    @property
    def num_groups(self) -> float:
        """Groups of the mode that has fewer."""
        return min(arm.num_groups for arm in self.arms)

    def solved(self, arm: Arm) -> Beta:
        """The posterior of solving in a mode."""
        weight = sum(each.weight for each in self.arms)
        prior = (1 + sum(each.solved for each in self.arms)) / (2 + weight)
        total = PRIOR_WEIGHT + arm.weight
        return Beta((PRIOR_WEIGHT * prior + arm.solved) / total, total)

    @property
    def gain(self) -> float:
        """Posterior mean of what retrieval adds to solving."""
        return self.solved(self.on).mean - self.solved(self.off).mean

    @property
    def deviation(self) -> float:
        """Posterior standard deviation of the gain."""
        return sqrt(sum(self.solved(arm).variance for arm in self.arms))

    def lower_gain(self, credibility: float) -> float:
        """The value that the gain exceeds with this credibility, its posterior taken as normal."""
        return self.gain - NormalDist().inv_cdf(credibility) * self.deviation

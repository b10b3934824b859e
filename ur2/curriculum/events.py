"""Decisions of the curriculum that a run's log should show, with the numbers they rest on."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """The adaptive policy turned retrieval on or off for a bucket."""

    step: int
    """The first step that it holds for."""
    bucket: str
    retrieval: bool
    """Whether the bucket's groups have retrieval from now on."""
    gain: float
    """Posterior mean of solving with retrieval less solving without it."""
    lower: float
    """The credible bound of the gain that was compared with the price."""
    price: float
    """The cost of the searches of one sample."""
    solved_with: float
    """Posterior mean of solving with retrieval."""
    solved_without: float
    """Posterior mean of solving without it."""
    num_groups_with: float
    """Groups with retrieval behind it; older ones count less."""
    num_groups_without: float
    """Groups without retrieval behind it; older ones count less."""

    def __str__(self) -> str:
        before, after = ("off", "on") if self.retrieval else ("on", "off")
        return (
            f"curriculum, step {self.step}: retrieval of {self.bucket} {before} -> {after}: "
            f"gain {self.gain:+.3f} (bound {self.lower:+.3f}) against a price of {self.price:.3f}; "
            f"solved {self.solved_with:.3f} with ({self.num_groups_with:.1f} groups), "
            f"{self.solved_without:.3f} without ({self.num_groups_without:.1f})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StageChange:
    """Another stage began."""

    step: int
    """Its first step."""
    before: str
    after: str
    reason: str
    """Why the one before it ended."""

    def __str__(self) -> str:
        return f"curriculum, step {self.step}: stage {self.before} -> {self.after}: {self.reason}"


Event = Switch | StageChange

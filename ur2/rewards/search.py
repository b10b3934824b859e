"""Terms on how a trajectory searched."""

from collections.abc import Sequence

from ur2.types import Trajectory


def search_bonus(num_searches: int, values: Sequence[float]) -> float:
    """`values` at the number of searches; the last one holds for more."""
    return values[min(num_searches, len(values) - 1)]


def num_unsearchable(trajectory: Trajectory) -> int:
    """Searches that were answered as not searchable."""
    return sum(event.outcome == "unsearchable" for event in trajectory.searches)

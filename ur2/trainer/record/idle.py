"""How long nobody worked: shares of wall time, from the spans of the timeline."""

import time
from collections.abc import Callable, Iterable

Interval = tuple[float, float]

LANES = {"idle/trainer": "policy rank", "idle/retrieval": "retrieval"}
"""By metric, what the names of its lanes begin with."""


def idle_fraction(busy: Iterable[Interval], start_s: float, end_s: float) -> float:
    """Share of the time from `start_s` to `end_s` that lies in no interval."""
    idle_s, reached_s = 0.0, start_s
    for begin_s, until_s in sorted(busy):
        idle_s += max(0.0, min(begin_s, end_s) - reached_s)
        reached_s = max(reached_s, min(until_s, end_s))
    return min((idle_s + end_s - reached_s) / (end_s - start_s), 1.0)  # sums are rounded


class Idleness:
    """The shares of time in which no policy rank worked, and in which no search was under way.

    Args:
        clock: epoch seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._busy: dict[str, list[Interval]] = {metric: [] for metric in LANES}
        self._since_s = dict.fromkeys(LANES, clock())

    def add(self, lane: str, start_s: float, end_s: float) -> None:
        """Counts a span of a lane of the timeline."""
        for metric, prefix in LANES.items():
            if lane.startswith(prefix):
                self._busy[metric].append((start_s, end_s))

    def take(self, searches_known_s: float) -> dict[str, float]:
        """The shares since the last call, by metric.

        Args:
            searches_known_s: epoch seconds until which all searches are known. What comes after is
                left to a later call; without any time before it there is no share of retrieval.
        """
        now_s = self._clock()
        known_s = {"idle/trainer": now_s, "idle/retrieval": min(now_s, searches_known_s)}
        shares = {}
        for metric, until_s in known_s.items():
            if until_s > (since_s := self._since_s[metric]):
                shares[metric] = idle_fraction(self._busy[metric], since_s, until_s)
                self._busy[metric] = [span for span in self._busy[metric] if span[1] > until_s]
                self._since_s[metric] = until_s
        return shares

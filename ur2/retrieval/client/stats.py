"""Figures over the most recent queries, for metrics and for stopping a run that retrieves badly."""

from collections import deque
from typing import NamedTuple

import numpy as np

WINDOW = 4096
"""The number of queries that "recent" means."""


class _Query(NamedTuple):
    latency_s: float
    failed: bool
    cached: bool


class QueryStats:
    """Latency quantiles and rates over the last `WINDOW` queries."""

    def __init__(self) -> None:
        self._recent: deque[_Query] = deque(maxlen=WINDOW)
        self._num_queries = 0

    def add(self, latency_s: float, *, failed: bool = False, cached: bool = False) -> None:
        """Counts one query."""
        self._recent.append(_Query(latency_s, failed, cached))
        self._num_queries += 1

    @property
    def cache_hit_rate(self) -> float:
        """The share of recent queries that cost no search."""
        return self._mean([query.cached for query in self._recent])

    @property
    def failure_rate(self) -> float:
        """The share of recent queries that got no answer."""
        return self._mean([query.failed for query in self._recent])

    def metrics(self) -> dict[str, float]:
        """`latency_p50_s`, `latency_p99_s`, `failure_rate`, and `num_queries` since the start."""
        latencies_s = [query.latency_s for query in self._recent] or [0.0]
        p50_s, p99_s = np.quantile(latencies_s, (0.5, 0.99))
        return {
            "latency_p50_s": float(p50_s),
            "latency_p99_s": float(p99_s),
            "failure_rate": self.failure_rate,
            "num_queries": float(self._num_queries),
        }

    @staticmethod
    def _mean(flags: list[bool]) -> float:
        return sum(flags) / len(flags) if flags else 0.0

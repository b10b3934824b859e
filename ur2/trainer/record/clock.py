"""Where the time of a step goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from ur2.trainer.record.timeline import Timeline


class Clock:
    """Adds up wall seconds by phase; phases do not nest.

    Args:
        timeline: where each phase is recorded too.
    """

    def __init__(self, timeline: Timeline | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self._timeline = timeline

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the time inside the block towards `name`."""
        start_s, began = time.time(), time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
            if self._timeline is not None:
                self._timeline.add("loop", name, start_s, time.time())

    def take(self) -> dict[str, float]:
        """The seconds so far, and starts again from nothing."""
        taken, self.seconds = self.seconds, {}
        return taken

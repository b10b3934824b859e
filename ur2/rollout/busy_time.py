"""How long at least one of several things was under way."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class BusyTime:
    """Seconds with anything inside `running`.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._num_running = 0
        self._since_s = 0.0
        self._seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Counts the time inside the block, once where blocks overlap."""
        if not self._num_running:
            self._since_s = self._clock()
        self._num_running += 1
        try:
            yield
        finally:
            self._num_running -= 1
            if not self._num_running:
                self._seconds += self._clock() - self._since_s

    def take_s(self) -> float:
        """Since the last call, up to now."""
        now_s = self._clock()
        if self._num_running:
            self._seconds += now_s - self._since_s
            self._since_s = now_s
        taken, self._seconds = self._seconds, 0.0
        return taken

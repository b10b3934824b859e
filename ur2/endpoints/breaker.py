"""The circuit breaker of clients: what keeps failing is left alone for a while."""

import time
from collections.abc import Callable


class Breaker:
    """Opens after failures in a row; while it is open one caller per rest may try."""

    def __init__(
        self, max_failures: int, rest_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Closed.

        Args:
            max_failures: the number in a row that opens it.
            rest_s: the pause before each trial while it is open.
            clock: seconds, which never go back.
        """
        self._max_failures = max_failures
        self._rest_s = rest_s
        self._clock = clock
        self._num_failures = 0
        self._next_trial_s = 0.0

    @property
    def is_open(self) -> bool:
        """Whether callers are turned away."""
        return self._num_failures >= self._max_failures

    def admits(self) -> bool:
        """Whether the caller may try; it tells what came of it, or nothing if it gave up."""
        if not self.is_open:
            return True
        if self._clock() < self._next_trial_s:
            return False
        self._rest()
        return True

    def succeeded(self) -> None:
        """Closes it."""
        self._num_failures = 0

    def failed(self) -> None:
        """Counts a failure."""
        self._num_failures += 1
        if self.is_open:
            self._rest()

    def _rest(self) -> None:
        self._next_trial_s = self._clock() + self._rest_s

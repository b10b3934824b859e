"""An event loop for simulations."""

import asyncio
import selectors
import time
from collections.abc import Callable


class SkippingLoop(asyncio.SelectorEventLoop):
    """An event loop that does not wait: where it would sleep, its clock jumps.

    The clock is the time of `work`, by default this process's processor time, and the jumps. Only
    for coroutines that wait for nothing but timers.
    """

    def __init__(self, work: Callable[[], float] = time.process_time) -> None:
        self._work = work
        self.skipped_s = 0.0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        return self._work() + self.skipped_s


class _Jumping(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    def __init__(self, loop: SkippingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "nothing is scheduled: what is waited for is no timer"
        self._loop.skipped_s += max(timeout, 0.0)
        return super().select(0)

"""Time that jumps to whatever is due next, and processors that work in it."""

import asyncio
import heapq
import itertools
import math
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
Done = Callable[[], object]
Job = list[Done]
"""Work under way; clear it to call it off."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that jumps to the next thing that is due instead of waiting for it."""

    def __init__(self) -> None:
        self.skip = _Skip()
        super().__init__(self.skip)

    def time(self) -> float:
        return self.skip.now_s

    def call_soon(self, *args: Any, **kwargs: Any) -> asyncio.Handle:
        self.skip.woken = True
        return super().call_soon(*args, **kwargs)


class _Skip(selectors.SelectSelector):
    """Called when no coroutine can go on: lets simulated work end until one can."""

    now_s = 0.0
    woken = False
    cores: "Cores | None" = None

    def select(self, timeout: float | None = None) -> list[Any]:
        until_s = math.inf if timeout is None else self.now_s + max(timeout, 0.0)
        self.woken = timeout == 0.0
        while not self.woken and self.cores and (due_s := self.cores.due_s()) <= until_s:
            if due_s == math.inf:
                raise RuntimeError("everything waits, and nothing is going to happen")
            self.now_s = max(self.now_s, due_s)
            self.cores.end_next()
        if not self.woken:
            self.now_s = until_s
        return []


def run_virtually(coroutine: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coroutine)


class Cores:
    """Work on shared processors: all of it goes on at the speed min(1, processors / demand).

    One per event loop, which must be a `VirtualLoop`.
    """

    def __init__(self, num: float) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self._skip = loop.skip
        self._skip.cores = self
        self._num = num
        self._demand = 0.0
        self._speed = 1.0
        self._worked_s = 0.0
        self._since_s = self._skip.now_s
        self._jobs: list[tuple[float, int, Job]] = []
        self._numbers = itertools.count()

    def start(self, work_s: float, done: Done) -> Job:
        """Calls `done` after so much work, unless the job is called off."""
        job = [done]
        heapq.heappush(self._jobs, (self.worked_s() + work_s, next(self._numbers), job))
        return job

    async def work(self, work_s: float, demand: float = 0.0) -> None:
        ended = asyncio.Event()
        self.load(demand)
        self.start(work_s, ended.set)
        await ended.wait()
        self.load(-demand)

    def load(self, demand: float) -> None:
        """So many more processors are wanted from now on."""
        self.worked_s()
        self._demand += demand
        self._speed = min(1.0, self._num / self._demand) if self._demand > 1e-9 else 1.0

    def worked_s(self) -> float:
        """What has been worked so far: less than the time, where the processors do not suffice."""
        self._worked_s += (self._skip.now_s - self._since_s) * self._speed
        self._since_s = self._skip.now_s
        return self._worked_s

    def due_s(self) -> float:
        """When the next job ends, if nothing changes."""
        while self._jobs and not self._jobs[0][2]:
            heapq.heappop(self._jobs)
        if not self._jobs:
            return math.inf
        return self._skip.now_s + max(self._jobs[0][0] - self.worked_s(), 0.0) / self._speed

    def end_next(self) -> None:
        """Ends the job that is due."""
        end_s, _, job = heapq.heappop(self._jobs)
        self._worked_s = max(self.worked_s(), end_s)
        for done in job:
            done()

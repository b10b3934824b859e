"""The workers, kept up: one that dies or hangs is replaced by one in the same state."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from typing import Any, Protocol, TypeVar

from ur2.environments.base import Branch
from ur2.errors import ComponentError
from ur2.rollout.options import RolloutOptions, SamplingOptions
from ur2.rollout.pool.receiver import TakesWeights, WorkerReceiver
from ur2.rollout.pool.seating import Seating
from ur2.rollout.tasks import gather_or_cancel
from ur2.rollout.timeouts import PausableTimeouts
from ur2.rollout.trace import Trace
from ur2.transfer.publication import Publication
from ur2.types import Assignment, Group

T = TypeVar("T")
Change = Callable[["Worker"], Awaitable[None]]
Limit = Callable[[float], AbstractAsyncContextManager[object]]
Respawn = Callable[[int], Awaitable["Worker"]]
logger = logging.getLogger(__name__)


class Worker(TakesWeights, Protocol):
    """A worker as the pool sees it, wherever it runs."""

    def start(self) -> Coroutine[Any, Any, None]:
        """Loads the model."""
        ...

    def run_group(
        self,
        assignment: Assignment,
        num_samples: int,
        sampling: SamplingOptions,
        first: int = 0,
        branches: Sequence[Branch] = (),
    ) -> Coroutine[Any, Any, Group]:
        """Plays the samples `first`, ..., `first + num_samples - 1` of a group, or its branches."""
        ...

    def take_lost_tokens(self) -> Coroutine[Any, Any, int]:
        """Tokens sampled since the last call for groups that were given up or failed."""
        ...

    def take_writing_s(self) -> Coroutine[Any, Any, float]:
        """Seconds since the last call in which its engine had a turn to write."""
        ...

    def sleep(self, *, keep_weights: bool) -> Coroutine[Any, Any, None]:
        """Gives the engine's memory back."""
        ...

    def wake(self) -> Coroutine[Any, Any, None]:
        """Takes it again."""
        ...

    def close(self) -> Coroutine[Any, Any, None]:
        """Frees processes and memory."""
        ...


class WorkerSupervisor:
    """All workers, with the newest weights, asleep or awake together.

    Args:
        workers: at least one, in any process.
        options: time limits, and how many may be replaced.
        seating: told of workers that are down.
        trace: told of each change: lane, what, and from when to when in epoch seconds.
        respawn: makes a worker, not started, in the place of the one with this number, and ends
            that one; without it the first death is an error.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        options: RolloutOptions,
        seating: Seating,
        *,
        trace: Trace,
        respawn: Respawn | None,
    ) -> None:
        self._workers = list(workers)
        self._options = options
        self._seating = seating
        self._trace = trace
        self._respawn = respawn
        self._restarts_left = options.max_worker_restarts if respawn else 0
        self._changing = [asyncio.Lock() for _ in workers]
        self._publication: Publication | None = None
        self.timeouts = PausableTimeouts()
        """For what waits while the workers sleep."""
        self._awake = asyncio.Event()
        self._awake.set()

    def __len__(self) -> int:
        return len(self._workers)

    def __getitem__(self, index: int) -> Worker:
        return self._workers[index]

    async def start(self) -> None:
        """Starts all workers at once.

        Raises:
            InputError: an engine is not installed or does not know the model.
            ComponentError: a worker did not come up.
        """
        await gather_or_cancel(self._start(i, w) for i, w in enumerate(self._workers))

    async def take_lost_tokens(self) -> int:
        """Tokens that all workers lost since the last call, without those of a worker that died."""
        return int(await self._total(lambda worker: worker.take_lost_tokens()))

    async def take_writing_s(self) -> float:
        """Seconds in which engines wrote since the last call, without workers that died."""
        return await self._total(lambda worker: worker.take_writing_s())

    async def take(self, publication: Publication) -> None:
        """Gives all engines new weights.

        The publication is kept until the next one, for workers that start later.

        Raises:
            ComponentError: the policy failed; or a worker died, hangs or refuses the weights, and
                there is no further restart.
        """
        async with AsyncExitStack() as unchanging:
            for lock in self._changing:
                await unchanging.enter_async_context(lock)
            previous, self._publication = self._publication, publication
            workers = list(self._workers)
            failures = await publication.deliver(
                [self._receiver(*item) for item in enumerate(workers)]
            )
        await gather_or_cancel(
            self._replace(index, worker, failure)
            for index, (worker, failure) in enumerate(zip(workers, failures, strict=True))
            if failure is not None
        )
        if previous is not None and previous is not publication:
            previous.discard()

    async def sleep(self, *, keep_weights: bool) -> None:
        """Makes all engines give their memory back; what is in play waits.

        Args:
            keep_weights: whether engines keep a copy; otherwise `take` must come before
                `wake`.

        Raises:
            ComponentError: a worker died or hangs, and there is no further restart.
        """
        self._awake.clear()
        self.timeouts.pause()
        await self._change_all("sleep", lambda worker: worker.sleep(keep_weights=keep_weights))

    async def wake(self) -> None:
        """Gives all engines their memory again; without effect on those that have it.

        Raises:
            ComponentError: a worker died or hangs, and there is no further restart.
        """
        self._awake.set()
        await self._change_all("wake", lambda worker: worker.wake())
        self.timeouts.go_on()

    async def close(self) -> None:
        """Closes all workers; safe to call twice."""
        limit_s = self._options.update_timeout_s
        await gather_or_cancel(
            within(limit_s, worker.close(), name_of(index, "close"))
            for index, worker in enumerate(self._workers)
        )

    async def replace(self, index: int, failed: Worker, error: ComponentError) -> None:
        """As soon as the others are awake, puts a fresh worker in the place of one that failed.

        Raises:
            ComponentError: `error`, or that of the last to replace it: there is no further restart.
        """
        await self._awake.wait()  # until then others need the memory
        await self._replace(index, failed, error)

    async def _start(self, index: int, worker: Worker) -> None:
        limit_s = self._options.engine.start_timeout_s
        await self._timed(index, "start", worker.start(), limit_s=limit_s)

    async def _change_all(self, what: str, change: Change) -> None:
        """Changes all workers at once; one that fails is replaced by one that is so already."""
        await gather_or_cancel(
            self._change_or_replace(index, what, change) for index in range(len(self._workers))
        )

    async def _change_or_replace(self, index: int, what: str, change: Change) -> None:
        async with self._changing[index]:
            worker = self._workers[index]
            try:
                await self._timed(index, what, change(worker))
                return
            except ComponentError as error:
                failure = error
        await self._replace(index, worker, failure)

    async def _timed(
        self, index: int, what: str, call: Awaitable[None], *, limit_s: float | None = None
    ) -> None:
        """Waits as long as for an update, or another limit; the timeline shows failures too."""
        start_s = time.time()
        try:
            await within(limit_s or self._options.update_timeout_s, call, name_of(index, what))
        finally:
            self._trace(f"rollout worker {index}", what, start_s, time.time())

    async def _total(self, figure: Callable[[Worker], Awaitable[float]]) -> float:
        async def of(index: int, worker: Worker) -> float:
            limit_s = self._options.update_timeout_s
            try:
                return await within(limit_s, figure(worker), name_of(index, "account"))
            except ComponentError as error:  # its groups say so too
                logger.warning("%s", error)
                return 0

        return sum(await gather_or_cancel(of(*item) for item in enumerate(self._workers)))

    def _receiver(self, index: int, worker: Worker) -> WorkerReceiver:
        return WorkerReceiver(
            worker=worker,
            num_ranks=self._options.engine.tensor_parallel_size,
            limit_s=self._options.update_timeout_s,
            timed=partial(self._timed, index),
        )

    async def _bring_up(self, index: int, worker: Worker) -> None:
        """Starts a worker late: it gets the newest weights, and sleeps where the others do."""
        await self._start(index, worker)
        if self._publication is not None:  # it starts with version 0
            (failure,) = await self._publication.deliver([self._receiver(index, worker)])
            if failure is not None:
                raise failure
        if not self._awake.is_set():
            await self._timed(index, "sleep", worker.sleep(keep_weights=True))

    async def _replace(self, index: int, failed: Worker, error: ComponentError) -> None:
        """Puts a fresh worker in the place of one that failed, unless that has happened already."""
        async with self._changing[index]:
            if self._workers[index] is not failed:
                return
            self._seating.set_down(index, down=True)
            try:
                self._workers[index] = await self._successor(index, error)
            finally:
                self._seating.set_down(index, down=False)

    async def _successor(self, index: int, error: ComponentError) -> Worker:
        """The first that comes up; raises the last error where there is no further restart."""
        while self._respawn is not None and self._restarts_left:
            self._restarts_left -= 1
            logger.warning("%s; starting another (%d more)", error, self._restarts_left)
            try:
                worker = await self._respawn(index)
                await self._bring_up(index, worker)
                return worker
            except ComponentError as failure:
                error = failure
        raise error


def name_of(index: int, what: str) -> str:
    """How messages call what a worker does."""
    return f"rollout worker {index}, {what}"


async def within(
    limit_s: float, call: Awaitable[T], what: str, *, limit: Limit = asyncio.timeout
) -> T:
    """Turns silence into an error that names the worker.

    Args:
        limit_s: the longest wait.
        call: what is waited for.
        what: the worker and what it does.
        limit: how time is measured.

    Raises:
        ComponentError: no answer in time.
    """
    try:
        async with limit(limit_s):
            return await call
    except TimeoutError as error:
        raise ComponentError(f"{what}: no answer within {limit_s:g} s") from error

"""The rollout workers as one: which worker plays which group, and what it cost."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from ur2.errors import ComponentError
from ur2.rollout.options import RolloutOptions, SamplingOptions
from ur2.rollout.tasks import gather_or_cancel
from ur2.types import Assignment, Group

T = TypeVar("T")


class Worker(Protocol):
    """What the pool asks of a worker, wherever it runs."""

    def start(self) -> Coroutine[Any, Any, None]:
        """Loads the model."""
        ...

    def run_group(
        self, assignment: Assignment, num_samples: int, sampling: SamplingOptions
    ) -> Coroutine[Any, Any, Group]:
        """Plays one group."""
        ...

    def update_weights(self, path: str, version: int) -> Coroutine[Any, Any, None]:
        """Takes new weights."""
        ...

    def close(self) -> Coroutine[Any, Any, None]:
        """Frees processes and memory."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerAccount:
    """What one worker did in one `collect`."""

    num_groups: int = 0
    num_sampled_tokens: int = 0
    busy_s: float = 0.0
    """Seconds with at least one group in play."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What one `collect` cost."""

    wall_s: float
    workers: tuple[WorkerAccount, ...]

    @property
    def num_sampled_tokens(self) -> int:
        """Tokens that the policy wrote."""
        return sum(worker.num_sampled_tokens for worker in self.workers)

    @property
    def sampled_tokens_per_s(self) -> float:
        """Over the wall time, all workers together."""
        return self.num_sampled_tokens / self.wall_s if self.wall_s > 0 else 0.0

    @property
    def idle_fraction(self) -> float:
        """Share of the workers' time without a group in play."""
        available_s = self.wall_s * len(self.workers)
        busy_s = sum(worker.busy_s for worker in self.workers)
        return 1.0 - busy_s / available_s if available_s > 0 else 0.0


class RolloutPool:
    """Spreads groups over workers.

    A group stays on one worker, whose prefix cache its samples share. Each group goes to the worker
    with the fewest groups in play when a place is free; a worker holds as many groups as fill its
    engine, so that the last ones go to whoever is fastest.

    Args:
        workers: at least one, in any process.
        options: budgets and the engines' capacity.
        death: exceptions by which a remote worker's death shows, beside `ComponentError`.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        options: RolloutOptions,
        *,
        death: tuple[type[Exception], ...] = (),
    ) -> None:
        self._workers = tuple(workers)
        self._options = options
        self._death = death
        self.account = Account(wall_s=0.0, workers=tuple(WorkerAccount() for _ in workers))
        """Of the latest `collect`."""

    async def start(self) -> None:
        """Starts all workers at once.

        Raises:
            InputError: an engine is not installed or does not know the model.
            ComponentError: a worker did not come up.
        """
        limit_s = self._options.engine.start_timeout_s
        await self._on_all([worker.start() for worker in self._workers], "start", limit_s)

    async def collect(
        self,
        assignments: Sequence[Assignment],
        num_samples: int,
        sampling: SamplingOptions,
        *,
        on_group: Callable[[Group], object] = lambda group: None,
    ) -> list[Group]:
        """Plays every assignment; the groups come in the order of the assignments.

        Args:
            assignments: one group each.
            num_samples: trajectories per group.
            sampling: how tokens are drawn.
            on_group: called with each group as soon as it is done.

        Raises:
            ComponentError: a worker died or hangs; what was under way is cancelled.
        """
        ledger = _Ledger(len(self._workers))
        capacity = max(1, -(-self._options.engine.max_num_seqs // num_samples))
        places = asyncio.Semaphore(capacity * len(self._workers))
        started = time.perf_counter()

        async def play(assignment: Assignment) -> Group:
            async with places:
                index = ledger.open()
                group = None
                try:
                    group = await self._guard(
                        self._workers[index].run_group(assignment, num_samples, sampling),
                        f"rollout worker {index}, group '{assignment.id}'",
                        self._options.group_timeout_s,
                    )
                finally:
                    ledger.close(index, group)
                on_group(group)
                return group

        groups = await gather_or_cancel(play(assignment) for assignment in assignments)
        self.account = Account(wall_s=time.perf_counter() - started, workers=tuple(ledger.accounts))
        return groups

    async def update_weights(self, path: str, version: int) -> None:
        """Gives all engines the weights of directory `path`, under the label `version`.

        Raises:
            ComponentError: a worker died, hangs or refuses the weights.
        """
        await self._on_all(
            [worker.update_weights(path, version) for worker in self._workers],
            f"weights {version}",
            self._options.update_timeout_s,
        )

    async def close(self) -> None:
        """Closes all workers; safe to call twice."""
        await self._on_all(
            [worker.close() for worker in self._workers], "close", self._options.update_timeout_s
        )

    async def _on_all(
        self, calls: Sequence[Coroutine[Any, Any, None]], what: str, limit_s: float
    ) -> None:
        await gather_or_cancel(
            self._guard(call, f"rollout worker {index}, {what}", limit_s)
            for index, call in enumerate(calls)
        )

    async def _guard(self, call: Awaitable[T], what: str, limit_s: float) -> T:
        """Turns a worker's death or silence into one error that names it."""
        try:
            async with asyncio.timeout(limit_s):
                return await call
        except TimeoutError as error:
            raise ComponentError(f"{what}: no answer within {limit_s:g} s") from error
        except self._death as error:
            raise ComponentError(f"{what}: the worker died: {error}") from error


class _Ledger:
    """Groups in play and finished, per worker, during one `collect`."""

    def __init__(self, num_workers: int) -> None:
        self.accounts = [WorkerAccount() for _ in range(num_workers)]
        self._in_play = [0] * num_workers
        self._busy_since = [0.0] * num_workers

    def open(self) -> int:
        """Chooses the least loaded worker for a group that starts."""
        index = min(range(len(self._in_play)), key=self._in_play.__getitem__)
        if self._in_play[index] == 0:
            self._busy_since[index] = time.perf_counter()
        self._in_play[index] += 1
        return index

    def close(self, index: int, group: Group | None) -> None:
        """Books a group that ended; None where it failed."""
        self._in_play[index] -= 1
        account = self.accounts[index]
        idle = self._in_play[index] == 0
        self.accounts[index] = WorkerAccount(
            num_groups=account.num_groups + (group is not None),
            num_sampled_tokens=account.num_sampled_tokens
            + (sum(t.num_policy_tokens for t in group.trajectories) if group else 0),
            busy_s=account.busy_s
            + (time.perf_counter() - self._busy_since[index] if idle else 0.0),
        )

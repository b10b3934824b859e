"""Places on workers, first come first served, and the account of what each worker did."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from ur2.types import Group


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerAccount:
    """The work of one worker in a span of time."""

    num_groups: int = 0
    """Groups, or parts of them where groups are spread, that were finished."""
    num_sampled_tokens: int = 0
    busy_s: float = 0.0
    """Seconds with at least one group in play."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayAccount:
    """The work of all workers in a span of time."""

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
        return self.share_without(sum(worker.busy_s for worker in self.workers))

    def share_without(self, busy_s: float) -> float:
        """Share of the workers' time that `busy_s` leaves."""
        available_s = self.wall_s * len(self.workers)
        return max(1.0 - busy_s / available_s, 0.0) if available_s > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Work for groups that came to nothing: they were given up, or their worker failed."""

    num_tokens: int
    """Sampled; without those of workers that died, which nobody knows."""
    played_s: float
    """Seconds, counted like `Group.played_s`."""


@dataclass(slots=True)
class _Seat:
    """One worker's state."""

    in_play: int = 0
    """Trajectories."""
    down: bool = False
    busy_since_s: float | None = None
    account: WorkerAccount = WorkerAccount()


class Seating:
    """Places on workers.

    A worker takes trajectories up to `capacity`; one that is empty takes any number. Whoever waits
    longest is served first, by the worker with the fewest trajectories in play.
    """

    def __init__(
        self, num_workers: int, capacity: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._seats = [_Seat() for _ in range(num_workers)]
        self._capacity = capacity
        self._clock = clock
        self._since_s = clock()
        self._waiting: deque[tuple[int, asyncio.Future[int]]] = deque()

    async def take(self, size: int) -> int:
        """The worker that has a place for `size` trajectories; waits until one has."""
        place: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, place))
        self._serve()
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.release(place.result(), size, None)
            else:
                self._serve()  # it may have been in the way of smaller ones
            raise

    def release(self, index: int, size: int, group: Group | None) -> None:
        """Gives a place back; `group` is what came of it, None where it failed."""
        seat = self._seats[index]
        seat.in_play -= size
        if seat.in_play == 0:
            self._end_busy(seat)
        tokens = sum(t.num_policy_tokens for t in group.trajectories) if group else 0
        seat.account = WorkerAccount(
            num_groups=seat.account.num_groups + (group is not None),
            num_sampled_tokens=seat.account.num_sampled_tokens + tokens,
            busy_s=seat.account.busy_s,
        )
        self._serve()

    def set_down(self, index: int, *, down: bool) -> None:
        """Takes a worker off its seat, or puts it back; one that is off is not busy."""
        seat = self._seats[index]
        seat.down = down
        if down:
            self._end_busy(seat)
        self._serve()

    def take_account(self) -> PlayAccount:
        """The work since the last call; starts another account."""
        now = self._clock()
        accounts = []
        for seat in self._seats:
            running_s = now - seat.busy_since_s if seat.busy_since_s is not None else 0.0
            done = seat.account
            accounts.append(
                WorkerAccount(
                    num_groups=done.num_groups,
                    num_sampled_tokens=done.num_sampled_tokens,
                    busy_s=done.busy_s + running_s,
                )
            )
            seat.account = WorkerAccount()
            seat.busy_since_s = now if seat.busy_since_s is not None else None
        wall_s, self._since_s = now - self._since_s, now
        return PlayAccount(wall_s=wall_s, workers=tuple(accounts))

    def _end_busy(self, seat: _Seat) -> None:
        if seat.busy_since_s is not None:
            busy_s = seat.account.busy_s + self._clock() - seat.busy_since_s
            seat.account = replace(seat.account, busy_s=busy_s)
            seat.busy_since_s = None

    def _serve(self) -> None:
        """Gives free places to those who wait, in order."""
        while self._waiting:
            size, place = self._waiting[0]
            if not place.done():
                index = self._free(size)
                if index is None:
                    return
                seat = self._seats[index]
                seat.in_play += size
                if seat.busy_since_s is None:
                    seat.busy_since_s = self._clock()
                place.set_result(index)
            self._waiting.popleft()

    def _free(self, size: int) -> int | None:
        fits = [
            (seat.in_play, index)
            for index, seat in enumerate(self._seats)
            if not seat.down and (seat.in_play == 0 or seat.in_play + size <= self._capacity)
        ]
        return min(fits)[1] if fits else None

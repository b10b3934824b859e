"""The rollout workers as one: which worker plays which group."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain, pairwise

from ur2.environments.base import Branch
from ur2.errors import ComponentError
from ur2.rollout.options import RolloutOptions, SamplingOptions
from ur2.rollout.pool.seating import Loss, PlayAccount, Seating
from ur2.rollout.pool.supervisor import Respawn, Worker, WorkerSupervisor, name_of, within
from ur2.rollout.tasks import gather_or_cancel
from ur2.rollout.trace import Trace, trace_tools
from ur2.transfer.publication import Publication
from ur2.types import Assignment, Group

NO_LOSS = Loss(num_tokens=0, played_s=0.0)


class RolloutPool:
    """Spreads groups over workers.

    Each group goes to the worker with the fewest trajectories in play as soon as that has a place.
    A group stays on one worker, whose prefix cache its samples share, unless `spread_groups`. A
    worker that dies or hangs is replaced, gets the newest weights, and its groups are played anew.

    Args:
        workers: at least one, in any process.
        options: budgets and the engines' capacity.
        trace: told of each span of work and of each search: lane, what, and from when to when in
            epoch seconds.
        respawn: makes a worker, not started, in the place of the one with this number, and ends
            that one; without it the first death is an error.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        options: RolloutOptions,
        *,
        trace: Trace = lambda *_: None,
        respawn: Respawn | None = None,
    ) -> None:
        self._options = options
        self._trace = trace
        self._seating = Seating(len(workers), options.max_in_play)
        self._supervisor = WorkerSupervisor(
            workers, options, self._seating, trace=trace, respawn=respawn
        )
        self._began_s: list[float] = []
        """When each group in play began."""
        self._loss = NO_LOSS

    async def start(self) -> None:
        """Starts all workers at once."""
        await self._supervisor.start()

    async def play(
        self,
        assignment: Assignment,
        num_samples: int,
        sampling: SamplingOptions,
        *,
        branches: Sequence[Branch] = (),
    ) -> Group:
        """Plays one group as soon as there is a place for it.

        Args:
            assignment: the question, and whether retrieval is on.
            num_samples: trajectories.
            sampling: how tokens are drawn.
            branches: one per trajectory, where these go on from the records of others.

        Raises:
            ComponentError: a worker died or hangs, and there is no further restart.
        """
        num_parts = min(len(self._supervisor), num_samples) if self._options.spread_groups else 1
        starts = [num_samples * part // num_parts for part in range(num_parts + 1)]
        done: list[Group] = []
        try:
            parts = await gather_or_cancel(
                self._play(assignment, first, last - first, sampling, done, branches[first:last])
                for first, last in pairwise(starts)
            )
        except BaseException:  # a cancellation too
            self.write_off(*done)
            raise
        return Group(
            assignment=assignment,
            trajectories=tuple(chain.from_iterable(part.trajectories for part in parts)),
            played_s=sum(part.played_s for part in parts),
        )

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
            ComponentError: as `play`; what was under way is cancelled.
        """

        async def play(assignment: Assignment) -> Group:
            group = await self.play(assignment, num_samples, sampling)
            on_group(group)
            return group

        return await gather_or_cancel(play(assignment) for assignment in assignments)

    async def take(self, publication: Publication) -> None:
        """Gives all engines the weights of a publication, and those that start later."""
        await self._supervisor.take(publication)

    async def sleep(self, *, keep_weights: bool) -> None:
        """Makes all engines give their memory back; what is in play waits."""
        await self._supervisor.sleep(keep_weights=keep_weights)

    async def wake(self) -> None:
        """Gives all engines their memory again."""
        await self._supervisor.wake()

    @property
    def searches_known_s(self) -> float:
        """Epoch seconds until which every search was traced: the groups in play began later.

        Groups that failed or were stopped tell nothing of their searches.
        """
        return min(self._began_s, default=time.time())

    def take_account(self) -> PlayAccount:
        """The work of all workers since the last call."""
        return self._seating.take_account()

    async def take_writing_s(self) -> float:
        """Seconds of all engines since the last call in which they had a turn to write."""
        return await self._supervisor.take_writing_s()

    async def take_loss(self) -> Loss:
        """Tokens and time that were lost since the last call."""
        loss, self._loss = self._loss, NO_LOSS
        num_tokens = loss.num_tokens + await self._supervisor.take_lost_tokens()
        return replace(loss, num_tokens=num_tokens)

    def write_off(self, *groups: Group) -> None:
        """Counts groups that were played as lost: nobody waits for them any more."""
        tokens = sum(t.num_policy_tokens for group in groups for t in group.trajectories)
        self._lose(tokens, sum(group.played_s for group in groups))

    async def close(self) -> None:
        """Closes all workers; safe to call twice."""
        await self._supervisor.close()

    async def _play(
        self,
        assignment: Assignment,
        first: int,
        num_samples: int,
        sampling: SamplingOptions,
        done: list[Group],
        branches: Sequence[Branch],
    ) -> Group:
        """Plays one part of a group, and adds it to `done`."""
        while True:
            index = await self._seating.take(num_samples)
            worker, group, start_s = self._supervisor[index], None, time.time()
            self._began_s.append(start_s)
            try:
                try:
                    group = await within(
                        self._options.group_timeout_s,
                        worker.run_group(assignment, num_samples, sampling, first, branches),
                        name_of(index, f"group '{assignment.id}'"),
                        limit=self._supervisor.timeouts.limit,
                    )
                finally:
                    self._began_s.remove(start_s)
                    end_s = time.time()
                    self._trace(f"rollout worker {index}", assignment.id, start_s, end_s)
                    played_s = num_samples * (end_s - start_s)
                    if group is None:
                        self._lose(0, played_s)
                trace_tools(group, self._trace, start_s, end_s)
                done.append(replace(group, played_s=played_s))
                return done[-1]
            except ComponentError as error:
                await self._supervisor.replace(index, worker, error)
            finally:
                self._seating.release(index, num_samples, group)

    def _lose(self, num_tokens: int, played_s: float) -> None:
        loss = self._loss
        self._loss = Loss(
            num_tokens=loss.num_tokens + num_tokens, played_s=loss.played_s + played_s
        )

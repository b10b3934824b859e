"""A training run in virtual time: the product's own scheduling over simulated costs.

`Curriculum`, `Feed`, `RolloutPool` and `Seating` are the product's, unchanged: they are coroutines,
and here their event loop jumps to whatever is due next. Simulated is what costs time: engines,
retrieval, the driver's processor and the policy's ranks (`parts.py`). The order of a
step is that of `ur2.trainer.loop`, the turns of a trajectory (`worker.py`) are those of
`ur2.rollout.episode`.
"""

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random

from bench.simulator.parts import Retrieval
from bench.simulator.virtual_time import Cores, run_virtually
from bench.simulator.worker import Scenario, Worker
from ur2.rollout.options import EngineOptions, RolloutOptions, SamplingOptions
from ur2.rollout.pool.rollout_pool import RolloutPool
from ur2.trainer.feed import Feed, StepGroups
from ur2.types import Assignment, ScoredGroup

NEVER_S = 1e12


@dataclass(kw_only=True)
class Step:
    """What one step took and did."""

    start_s: float
    end_s: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    """By phase."""
    trained: tuple[str, ...] = ()
    """Ids of groups."""
    rejected: tuple[str, ...] = ()
    num_tokens: int = 0
    """That the policy wrote."""
    num_trajectories: int = 0
    rollout_idle: float = 0.0
    """Share of the engines' time without a group in play."""
    oldest: int = 0
    """Versions by which the first weights of a group were older than those it updates."""

    @property
    def total_s(self) -> float:
        return self.end_s - self.start_s


class Driver:
    """A process that does one thing at a time."""

    def __init__(self) -> None:
        self._free_s = 0.0

    async def work(self, seconds: float) -> None:
        now_s = asyncio.get_running_loop().time()
        self._free_s = max(self._free_s, now_s) + seconds
        if seconds:
            await asyncio.sleep(self._free_s - now_s)


class Run:
    """The loop over simulated parts."""

    def __init__(self, scenario: Scenario) -> None:
        costs = scenario.costs
        self._scenario = scenario
        self._cores = Cores(costs.cores)
        self._driver = Driver()
        retrieval = Retrieval(costs.retrieval, self._cores, Random(scenario.seed))
        self._workers = [
            Worker(scenario, self._cores, retrieval) for _ in range(scenario.num_engines)
        ]
        self._sampling = SamplingOptions()
        options = RolloutOptions(
            engine=EngineOptions(max_num_seqs=scenario.max_num_seqs),
            overcommit=1.0,  # a simulated engine decodes all that it is given
            samples_per_prompt=scenario.samples_per_prompt,
            group_timeout_s=NEVER_S,
        )
        self._pool = RolloutPool(self._workers, options)
        self._feed = Feed(
            scenario.trainer, scenario.curriculum(), self._play, lambda g: bool(g.scores)
        )

    async def run(self) -> list[Step]:
        num_steps = self._scenario.num_steps or self._scenario.trainer.steps
        steps = [await self._step(number) for number in range(1, num_steps + 1)]
        await self._feed.close()
        return steps

    async def _step(self, number: int) -> Step:
        costs, loop = self._scenario.costs, asyncio.get_running_loop()
        step = Step(start_s=loop.time())

        @contextmanager
        def phase(name: str) -> Iterator[None]:
            start_s = loop.time()
            yield
            step.seconds[name] = loop.time() - start_s

        with phase("rollout"):
            groups = await self._feed.next(number)
        self._account(step, groups, version=number - 1)
        lengths = [
            played.shape.num_tokens
            for scored in groups.accepted
            for played in scored.group.trajectories
        ]
        with phase("advantage"):
            await self._driver.work(costs.driver.batch_s * len(lengths))
        with phase("update"):
            if lengths:
                await self._cores.work(costs.update.seconds(lengths), costs.update_demand)
        with phase("settle"):
            await self._feed.settle(asyncio.Event())
        with phase("sync"):
            await self._cores.work(costs.publish_s, costs.update_demand)
            await asyncio.gather(*(worker.take_weights(number) for worker in self._workers))
        with phase("report"):
            report_s = costs.driver.report_s * step.num_trajectories
            await self._driver.work(costs.driver.step_s + report_s)
        step.end_s = loop.time()
        busy_s = sum(worker.take_busy_s() for worker in self._workers)
        step.rollout_idle = 1.0 - busy_s / max(step.total_s * len(self._workers), 1e-12)
        return step

    def _account(self, step: Step, groups: StepGroups, *, version: int) -> None:
        played = [p for scored in groups.played for p in scored.group.trajectories]
        step.trained = tuple(scored.group.assignment.id for scored in groups.accepted)
        step.rejected = tuple(scored.group.assignment.id for scored in groups.rejected)
        step.num_tokens = sum(p.num_policy_tokens for p in played)
        step.num_trajectories = len(played)
        step.oldest = max(version - p.first_version for p in played)

    async def _play(self, assignment: Assignment) -> ScoredGroup:
        """A group with as many scores as samples where it carries signal, else with none."""
        scenario = self._scenario
        num_samples = scenario.samples_per_prompt
        group = await self._pool.play(assignment, num_samples, self._sampling)
        await self._driver.work(scenario.costs.driver.receive_s * num_samples)
        informative = scenario.workload.is_informative(
            assignment, scenario.rng(assignment, "signal")
        )
        return ScoredGroup(group=group, scores=(0.0,) * num_samples if informative else ())


def simulate(scenario: Scenario) -> list[Step]:
    """The steps of a run."""

    async def run() -> list[Step]:
        return await Run(scenario).run()

    gc.disable()  # there are millions of small records, and next to no cycles
    try:
        return run_virtually(run())
    finally:
        gc.enable()

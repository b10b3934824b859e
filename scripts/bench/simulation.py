"""A training run in virtual time: the product's own scheduling over simulated costs.

`Curriculum`, `Feed`, `RolloutPool` and `Board` are the product's, unchanged: they are coroutines,
and here their event loop jumps to whatever is due next. Simulated is what costs time: engines,
retrieval, the driver's processor and the policy's ranks (`simulation_parts.py`). The order of a
step is that of `ur2.trainer.loop`, the turns of a trajectory are those of `ur2.rollout.episode`.
"""

import asyncio
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple, Protocol

from simulation_parts import Cores, Costs, Engine, Retrieval, run_virtually

from ur2.curriculum.curriculum import Curriculum
from ur2.rollout.options import EngineOptions, RolloutOptions, SamplingOptions
from ur2.rollout.pool import RolloutPool
from ur2.trainer.feed import Feed, Harvest
from ur2.trainer.options import TrainerOptions
from ur2.types import Assignment, Group, ScoredGroup

NEVER_S = 1e12


class Turn(NamedTuple):
    """A turn of the policy, and the environment's reaction."""

    num_tokens: int
    num_observed: int | None
    """Tokens of the documents; None where the trajectory ends."""


class Shape(NamedTuple):
    """How long the parts of a trajectory are."""

    num_prompt_tokens: int
    turns: tuple[Turn, ...]

    @property
    def num_policy_tokens(self) -> int:
        return sum(turn.num_tokens for turn in self.turns)

    @property
    def num_tokens(self) -> int:
        observed = sum(turn.num_observed or 0 for turn in self.turns)
        return self.num_prompt_tokens + self.num_policy_tokens + observed


class Workload(Protocol):
    """What groups look like; the same group looks the same in every mode."""

    def shapes(self, assignment: Assignment, num_samples: int, rng: Random) -> list[Shape]: ...

    def is_informative(self, assignment: Assignment, rng: Random) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class Scenario:
    trainer: TrainerOptions
    costs: Costs
    workload: Workload
    curriculum: Callable[[], Curriculum]
    num_engines: int = 1
    max_num_seqs: int = 256
    samples_per_prompt: int = 8
    num_steps: int | None = None
    """To be simulated; None: all that the trainer has."""
    seed: int = 0

    def rng(self, assignment: Assignment, what: str) -> Random:
        return Random(zlib.crc32(f"{self.seed}/{assignment.id}/{what}".encode()))


@dataclass(frozen=True, slots=True)
class Played:
    """What is left of a trajectory."""

    id: str
    shape: Shape
    first_version: int
    last_version: int
    searches: tuple[()] = ()
    """The simulation keeps no record of them."""

    @property
    def num_policy_tokens(self) -> int:
        return self.shape.num_policy_tokens


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


class Worker:
    """A rollout worker as the pool sees it, with a simulated engine."""

    def __init__(self, scenario: Scenario, cores: Cores, retrieval: Retrieval) -> None:
        self._scenario = scenario
        self.retrieval = retrieval
        self._cores = cores
        costs = scenario.costs
        self.engine = Engine(costs.engine, cores, costs.rollout_demand)
        self.version = 0
        self._num_groups = 0
        self._busy_s = 0.0
        self._busy_since_s = 0.0

    async def start(self) -> None: ...

    async def run_group(
        self, assignment: Assignment, num_samples: int, sampling: SamplingOptions, first: int = 0
    ) -> Group:
        scenario = self._scenario
        self._mark(1)
        rng = scenario.rng(assignment, "shapes")
        shapes = scenario.workload.shapes(assignment, scenario.samples_per_prompt, rng)
        ended = asyncio.Event()
        episodes: list[_Episode] = []

        def one_ended() -> None:
            if all(episode.ended for episode in episodes):
                ended.set()

        episodes += [_Episode(self, shape, one_ended) for shape in shapes[first:][:num_samples]]
        try:
            for number, episode in enumerate(episodes):
                episode.begin(shares_prompt=number > 0)
            await ended.wait()
        finally:
            self._mark(-1)
        trajectories = (
            Played(f"{assignment.id}/{number}", e.shape, e.first_version, self.version)
            for number, e in enumerate(episodes, start=first)
        )
        return Group(assignment=assignment, trajectories=tuple(trajectories))

    async def take_weights(self, version: int) -> None:
        """What the pool's `update_weights` makes all workers do at once."""
        self.engine.pause()
        await self._cores.work(self._scenario.costs.load_s)
        self.version = version
        self.engine.resume()

    async def close(self) -> None: ...

    def _mark(self, groups: int) -> None:
        now_s = asyncio.get_running_loop().time()
        if self._num_groups:
            self._busy_s += now_s - self._busy_since_s
        self._busy_since_s = now_s
        self._num_groups += groups

    def take_busy_s(self) -> float:
        """Seconds with a group in play since the last call."""
        self._mark(0)
        busy_s, self._busy_s = self._busy_s, 0.0
        return busy_s


class _Episode:
    """A trajectory under way: turns of the engine, and retrieval between them."""

    __slots__ = ("_context", "_done", "_reloads", "_turn", "_uncached", "_worker", "ended")
    __slots__ += ("first_version", "shape")

    def __init__(self, worker: Worker, shape: Shape, done: Callable[[], object]) -> None:
        self._worker = worker
        self._done = done
        self._turn = 0
        self._context = self._uncached = shape.num_prompt_tokens
        self._reloads = worker.engine.num_reloads
        self.shape = shape
        self.first_version = worker.version
        self.ended = False

    def begin(self, *, shares_prompt: bool) -> None:
        if shares_prompt:
            self._uncached = 0
        self._write()

    def _write(self) -> None:
        engine = self._worker.engine
        uncached = self._uncached if self._reloads == engine.num_reloads else self._context
        self._reloads = engine.num_reloads
        num_tokens = self.shape.turns[self._turn].num_tokens
        engine.write(self._context, uncached, num_tokens, self._wrote)

    def _wrote(self) -> None:
        turn = self.shape.turns[self._turn]
        self._context += turn.num_tokens
        if turn.num_observed is None:
            self.ended = True
            self._done()
        else:
            self._worker.retrieval.search(self._found)

    def _found(self) -> None:
        observed = self.shape.turns[self._turn].num_observed or 0
        self._context += observed
        self._uncached = observed
        self._turn += 1
        self._write()


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
            harvest = await self._feed.next(number)
        self._account(step, harvest, version=number - 1)
        lengths = [
            played.shape.num_tokens
            for scored in harvest.accepted
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

    def _account(self, step: Step, harvest: Harvest, *, version: int) -> None:
        played = [p for scored in harvest.played for p in scored.group.trajectories]
        step.trained = tuple(scored.group.assignment.id for scored in harvest.accepted)
        step.rejected = tuple(scored.group.assignment.id for scored in harvest.rejected)
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

    return run_virtually(run())

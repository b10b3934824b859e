"""A rollout worker as the pool sees it, with trajectories that only have a length."""

import asyncio
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import NamedTuple, Protocol

from bench.simulator.parts import Costs, Engine, Retrieval
from bench.simulator.virtual_time import Cores
from ur2.curriculum.curriculum import Curriculum
from ur2.rollout.options import SamplingOptions
from ur2.trainer.options import TrainerOptions
from ur2.types import Assignment, Group


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
    events: tuple[()] = ()
    """The simulation keeps no record of them."""

    @property
    def num_policy_tokens(self) -> int:
        return self.shape.num_policy_tokens


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
        self,
        assignment: Assignment,
        num_samples: int,
        sampling: SamplingOptions,
        first: int = 0,
        branches: object = (),
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
            Played(f"{assignment.id}/{number}", e.shape, e.first_version)
            for number, e in enumerate(episodes, start=first)
        )
        return Group(assignment=assignment, trajectories=tuple(trajectories))

    async def take_weights(self, version: int) -> None:
        """What the pool's `take` makes all workers do at once."""
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

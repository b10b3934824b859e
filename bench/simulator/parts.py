"""What a simulated run is made of: an engine, retrieval, and what everything costs.

An engine batches continuously. With n sequences that have C tokens of context together, each of
them gets its next token after step_s + sequence_s·n + context_s·C; a request that comes in, and
each of its tokens that is not cached, holds all of them up. New weights hold the engine up while
they are loaded and while the context of what is in flight is computed again.
"""

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from bench.simulator.virtual_time import Cores, Done, Job

ROUNDING = 1e-9
"""Tokens."""


@dataclass(frozen=True, kw_only=True)
class EngineCosts:
    step_s: float
    sequence_s: float = 0.0
    context_s: float = 0.0
    request_s: float = 0.0
    prefill_s: float = 0.0
    """Of one token."""

    def times(self, factor: float) -> "EngineCosts":
        return EngineCosts(**{name: value * factor for name, value in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class RetrievalCosts:
    latency_s: Callable[[Random], float]
    """Of one query, after its batch."""
    num_replicas: int = 1
    max_batch: int = 128
    batch_s: float = 0.0
    query_s: float = 0.0
    """Of one query in a batch."""


@dataclass(frozen=True, kw_only=True)
class UpdateCosts:
    fixed_s: float
    """Of one optimizer step: communication, and the optimizer itself."""
    token_s: float
    """Of one token on one rank."""
    old_token_s: float = 0.0
    """Of one token whose old log-probability is computed first: in all steps but the first."""
    num_ranks: int = 1
    num_steps: int = 1
    attention_span: float = math.inf
    """Length at which attention costs as much as the matrices."""

    def seconds(self, lengths: Sequence[int]) -> float:
        """Samples go to optimizer steps and ranks about as `ur2.policy.batch.packing` has it."""
        work = sorted((n * (1.0 + n / self.attention_span) for n in lengths), reverse=True)
        seconds = 0.0
        for number in range(min(self.num_steps, len(work))):
            token_s = self.token_s + (self.old_token_s if number else 0.0)
            fullest = _fullest(work[number :: self.num_steps], self.num_ranks)
            seconds += self.fixed_s + token_s * fullest
        return seconds


def _fullest(work: Sequence[float], num_ranks: int) -> float:
    """The largest share where each item, the largest first, goes to the smallest share so far."""
    shares = [0.0] * num_ranks
    for item in work:
        heapq.heapreplace(shares, shares[0] + item)
    return max(shares)


@dataclass(frozen=True, kw_only=True)
class DriverCosts:
    """Processor time of the one process that runs the loop."""

    receive_s: float = 0.0
    """Of a trajectory: taking it from its worker, and scoring it."""
    batch_s: float = 0.0
    """Of a trajectory that is trained on: making it part of the batch."""
    report_s: float = 0.0
    """Of a trajectory, where the step ends."""
    step_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Costs:
    engine: EngineCosts
    retrieval: RetrievalCosts
    update: UpdateCosts
    driver: DriverCosts = DriverCosts()
    publish_s: float = 0.0
    """The ranks write the weights."""
    load_s: float = 0.0
    """An engine, which stands still, takes them."""
    cores: float = math.inf
    """Processors that all parts share; infinite where each has its own."""
    rollout_demand: float = 0.0
    """Processors that an engine at work, and what goes with it, keep busy."""
    update_demand: float = 0.0
    """Likewise the ranks."""


class Engine:
    """Between two events all sequences are given tokens at the same pace."""

    def __init__(self, costs: EngineCosts, cores: Cores, demand: float) -> None:
        self._costs = costs
        self._cores = cores
        self._demand = demand
        self._given = 0.0
        """Tokens that a sequence would have which was here from the start."""
        self._running: list[tuple[float, int, int, Done]] = []
        """By end: that, a number, the context at the end, and whom to tell."""
        self._numbers = itertools.count()
        self._context = 0.0
        self._held_up_s = 0.0
        self._since_s = 0.0
        self._job: Job = []
        self._paused = False
        self.num_reloads = 0
        """What was cached before the last one is lost."""

    def write(self, context: int, num_uncached: int, num_tokens: int, done: Done) -> None:
        """Samples `num_tokens` after `context` ones."""
        self._advance()
        if not self._running:
            self._cores.load(self._demand)
        self._held_up_s += self._costs.request_s + self._costs.prefill_s * num_uncached
        self._context += context
        end = self._given + num_tokens
        heapq.heappush(self._running, (end, next(self._numbers), context + num_tokens, done))
        if not self._job or self._running[0][0] == end:  # else the job comes early, and is renewed
            self._plan()

    def pause(self) -> None:
        self._advance()
        self._paused = True
        self._plan()

    def resume(self) -> None:
        """Nothing is cached any more: the context of what is in flight is read again."""
        self._advance()
        self._paused = False
        self.num_reloads += 1
        self._held_up_s += self._costs.prefill_s * self._context
        self._plan()

    def _pace(self) -> tuple[float, float]:
        """Seconds of the next token, and by how much the one after it takes longer."""
        costs, num = self._costs, len(self._running)
        pace_s = costs.step_s + costs.sequence_s * num + costs.context_s * self._context
        return pace_s, costs.context_s * num

    def _advance(self) -> None:
        worked_s = self._cores.worked_s()
        passed_s, self._since_s = worked_s - self._since_s, worked_s
        if self._paused or not self._running:
            return
        held_up_s = min(self._held_up_s, passed_s)
        self._held_up_s -= held_up_s
        left_s = passed_s - held_up_s
        pace_s, slower_s = self._pace()
        # the root of pace·k + slower·k²/2 = left, in a form that also holds without `slower`
        k = 2.0 * left_s / (pace_s + math.sqrt(pace_s * pace_s + 2.0 * slower_s * left_s))
        self._give(min(self._given + k, self._running[0][0]))

    def _give(self, given: float) -> None:
        self._context += (given - self._given) * len(self._running)
        self._given = given

    def _plan(self) -> None:
        self._job.clear()
        if self._running and not self._paused:
            k = self._running[0][0] - self._given
            pace_s, slower_s = self._pace()
            left_s = self._held_up_s + k * (pace_s + slower_s * k / 2.0)
            self._job = self._cores.start(left_s, self._fire)

    def _fire(self) -> None:
        self._job = []
        self._advance()
        if self._running[0][0] - self._given > ROUNDING:
            self._plan()
            return
        self._give(self._running[0][0])
        finished = []
        while self._running and self._running[0][0] <= self._given:
            _, _, context, done = heapq.heappop(self._running)
            self._context -= context
            finished.append(done)
        if not self._running:
            self._cores.load(-self._demand)
        self._plan()
        for done in finished:
            done()


class Retrieval:
    """Replicas that take what waits as one batch each."""

    def __init__(self, costs: RetrievalCosts, cores: Cores, rng: Random) -> None:
        self._costs = costs
        self._cores = cores
        self._rng = rng
        self._waiting: deque[Done] = deque()
        self._num_free = costs.num_replicas

    def search(self, done: Done) -> None:
        self._waiting.append(done)
        self._serve()

    def _serve(self) -> None:
        while self._num_free and self._waiting:
            size = min(len(self._waiting), self._costs.max_batch)
            batch = [self._waiting.popleft() for _ in range(size)]
            self._num_free -= 1
            work_s = self._costs.batch_s + self._costs.query_s * size
            self._cores.start(work_s, lambda batch=batch: self._answer(batch))

    def _answer(self, batch: Sequence[Done]) -> None:
        self._num_free += 1
        for done in batch:
            self._cores.start(self._costs.latency_s(self._rng), done)
        self._serve()

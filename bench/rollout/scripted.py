"""The parts of rollout.py that need no engine: many workloads, and what the loop itself costs."""

import asyncio
import gc
import time
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.progress import track

from bench.rollout.lockstep import play_in_rounds
from bench.rollout.paced import (
    OPTIONS,
    SAMPLES,
    SAMPLING,
    SEED,
    Replayed,
    SteppingEngine,
    Workload,
    assignments,
    generation,
    make_players,
    script,
)
from bench.rollout.plays import Shape, play_episodes
from bench.rollout.skipping import SkippingLoop
from ur2.retrieval.client.retriever import HttpTransport, LocalTransport, RetrievalClient
from ur2.rollout.engines.base import Generation, GenerationRequest
from ur2.rollout.options import EngineOptions
from ur2.transfer.records import Handover

STEP_S = 0.020
SEQUENCE_S = 0.00005
CONCURRENT = 2000
NUM_SEARCHES = 500
NUM_SEARCH_ROUNDS = 5
ROUNDS = 25
WARM_ROUNDS = 5


def simulate(model: str, shape: Shape, seed: int) -> tuple[float, float]:
    """Seconds in lock-step, and with us."""
    work, groups = shape.draw(seed), shape.groups

    async def seconds(is_ours: bool) -> float:
        engine = SteppingEngine(step_s=STEP_S, sequence_s=SEQUENCE_S)
        players, client = make_players(model, engine, LocalTransport(Replayed()))
        players.engine.script = script(work, groups)
        loop = asyncio.get_running_loop()
        started = loop.time()
        if is_ours:
            await shape.play(players, groups)
        else:
            await play_in_rounds(players, client, groups, SAMPLES, SAMPLING, seed=SEED)
        return loop.time() - started

    return skipping(seconds(False)), skipping(seconds(True))


def longest_alone_s(work: Workload) -> float:
    """Seconds that the longest trajectory takes with the scripted engine to itself."""
    decoding_s = work.lengths_BT.sum(axis=1) * (STEP_S + SEQUENCE_S)
    return float((decoding_s + work.latencies_BS.sum(axis=1)).max())


def skipping(work: Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine without its waiting."""
    with asyncio.Runner(loop_factory=SkippingLoop) as runner:
        return runner.run(work)


class SleepingEngine:
    """Serves any number of requests, at `STEP_S` per token."""

    async def start(self) -> None: ...

    async def generate(self, request: GenerationRequest) -> Generation:
        await asyncio.sleep(STEP_S * request.max_tokens)
        return generation(request.max_tokens)

    async def take(self, handover: Handover, version: int) -> None: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Overhead:
    """Of the event loop and all that runs on it."""

    turn_ms: list[float]
    """Processor time per turn, one figure per round."""
    resident_mib: list[float]
    """Of the process after each round."""

    @property
    def growth_mib(self) -> float:
        """Per 10,000 trajectories, by a straight line through all rounds but the first."""
        resident = self.resident_mib[WARM_ROUNDS:]
        per_round = np.polyfit(np.arange(len(resident)), resident, 1)[0]
        return float(per_round) * 10_000 / CONCURRENT


async def measure_searches(url: str) -> list[float]:
    """Processor time of one search over HTTP on the asking side, in ms; 500 under way at once."""
    transport = HttpTransport(url)
    client = RetrievalClient(transport)
    costs = []
    for _ in range(1 + NUM_SEARCH_ROUNDS):
        started = time.process_time()
        await asyncio.gather(*(client.search(["1.0"], 1) for _ in range(NUM_SEARCHES)))
        assert client.metrics()["failure_rate"] == 0.0
        costs.append(1e3 * (time.process_time() - started) / NUM_SEARCHES)
    await transport.close()
    return costs[1:]  # the first opens the connections


def measure_overhead(model: str, work: Workload) -> Overhead:
    """Plays rounds of 2,000 trajectories that are all under way at once."""
    groups = assignments(CONCURRENT // SAMPLES)
    options = OPTIONS.model_copy(update={"engine": EngineOptions(max_num_seqs=CONCURRENT)})
    players, _ = make_players(model, SleepingEngine(), LocalTransport(Replayed()))
    players = replace(players, options=options)
    players.engine.script = script(work, groups)
    overhead = Overhead([], [])

    async def play() -> None:
        for _ in track(range(ROUNDS), "rounds of 2,000", console=Console(stderr=True)):
            started = time.process_time()
            await play_episodes(players, groups)
            spent_s = time.process_time() - started
            overhead.turn_ms.append(1e3 * spent_s / work.lengths_BT.size)
            gc.collect()
            overhead.resident_mib.append(psutil.Process().memory_info().rss / 2**20)

    skipping(play())
    return overhead

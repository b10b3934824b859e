"""Rollouts beside a lock-step loop and beside the bare engine; what an event loop spends on a turn.

    python scripts/bench/rollout.py [model=FOLDER] [repeats=7] [parts=[speed,prefix]]

overhead   processor time of the event loop per turn, 2,000 trajectories under way: pool, worker,
           episode, prompt, search, documents; resident memory over 50,000 trajectories; and what
           a search over HTTP adds.
simulated  trajectories/s by those of a loop in lock-step, with a scripted engine of 20 ms per step
           and 0.05 ms per sequence in it, about a 14B model on a GPU with 2 TB/s; many workloads,
           in the time of a loop that does not wait. Batches of 128 trajectories of three turns,
           a generation and a search each, then the answer; or, as another reading of "three
           turns", two of them and the answer. One batch; four, one per step of a synchronous
           run with 2 extra groups (`_oversampled`); and all four at once, where the engine decodes
           128 (`_stream`). The longest trajectory alone bounds what any loop can do on one batch.
speed      the same on a real vllm engine, retrieval over HTTP in a process of its own.
single     tokens/s of one-turn episodes beside AsyncLLM.generate with the same prompts, lengths,
           seeds and sampling.
prefix     prompt tokens that vllm computes for groups of 16 (1 = once per group), and tokens that
           it computes for a second turn, by those that are new to it.

paced.py says how long turns and searches take, plays.py how we play them, lockstep.py what the
baseline does. Without `model`
a random one in the quickstart's shape is made: the lengths are given whatever the model says. Times
are medians of interleaved repeats.
"""

import asyncio
import logging
import os
import tempfile
import time
from collections.abc import Awaitable, Iterable, Sequence
from statistics import median
from typing import Any, Literal

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ["OMP_NUM_THREADS"] = "1"

from rich.console import Console
from rich.progress import track

from bench.figures import tell
from bench.rollout.lockstep import play_in_rounds
from bench.rollout.paced import (
    QUESTION,
    SAMPLES,
    SAMPLING,
    SEED,
    Turn,
    Workload,
    assignments,
    draw,
    make_players,
    make_random_model,
    script,
    serving,
)
from bench.rollout.paced_vllm import BenchEngine, make_engine
from bench.rollout.plays import NUM_GROUPS, SHAPES, Shape, play_episodes
from bench.rollout.scripted import (
    CONCURRENT,
    longest_alone_s,
    measure_overhead,
    measure_searches,
    simulate,
)
from ur2.options import Options, parse_command_line
from ur2.retrieval.client.retriever import HttpTransport, RetrievalClient
from ur2.rollout.engines.base import GenerationRequest
from ur2.rollout.episode import Players, turn_seed
from ur2.types import Assignment

NUM_WORKLOADS = 20
LONG_QUESTION = " ".join([QUESTION] * 20)
Figures = dict[str, float]
Part = Literal["overhead", "simulated", "speed", "single", "prefix"]


class BenchOptions(Options):
    """What to measure."""

    model: str | None = None
    """A model folder; by default one is made from nothing."""
    repeats: int = 7
    """Of each side of `speed` and `single`, in turn."""
    parts: tuple[Part, ...] = ("overhead", "simulated", "speed", "single", "prefix")
    """Which of the parts above."""


class Bench:
    """A started engine, and what is measured with it."""

    def __init__(self, players: Players, client: RetrievalClient, repeats: int) -> None:
        self.players = players
        self.client = client
        self.engine: BenchEngine = players.engine.inner
        self.repeats = repeats

    async def speed(self, shape: Shape) -> float:
        """How many times the trajectories/s of the lock-step loop."""
        pairs = []
        groups, title = shape.groups, f"vllm, {shape}"
        for seed in progress(max(1, self.repeats // shape.num_batches), title):
            self.load(shape.draw(seed), groups)
            lock_step_s = await self.timed(
                play_in_rounds(self.players, self.client, groups, SAMPLES, SAMPLING, seed=SEED)
            )
            pairs.append((lock_step_s, await self.timed(shape.play(self.players, groups))))
        return report(title, "lock-step", pairs)

    async def single(self) -> float:
        """Tokens/s of episodes of one turn, by those of the bare engine."""
        pairs = []
        groups = assignments(NUM_GROUPS)
        prompt = self.players.renderer.prompt
        prompts = [
            prompt(group.question, True).token_ids for group in groups for _ in range(SAMPLES)
        ]
        for seed in progress(self.repeats, "single"):
            turns = self.load(draw(seed, len(prompts), 0), groups)
            requests = [
                GenerationRequest(token_ids=token_ids, max_tokens=turn.num_tokens, seed=seed)
                for token_ids, (seed, turn) in zip(prompts, turns.items(), strict=True)
            ]
            bare_s = await self.timed(self.engine.bare(requests))
            pairs.append((bare_s, await self.timed(play_episodes(self.players, groups))))
        return report("one turn", "bare engine", pairs)

    async def prefix(self, question: str) -> tuple[float, float]:
        """Prompt tokens computed per token of the groups' prompts, and likewise for second turns.

        What is new to a second turn: the documents, and the token sampled last, which has not been
        an input yet.
        """
        groups = assignments(NUM_GROUPS, question)
        self.load(draw(0, len(groups) * SAMPLES, 1), groups)
        await self.engine.forget()
        played = await play_episodes(self.players, groups)
        trajectories = [trajectory for group in played for trajectory in group.trajectories]
        first, second = (
            sum(self.engine.computed[turn_seed(SEED, t.id, step)] for t in trajectories)
            for step in (0, 1)
        )
        prompts = [group.trajectories[0].segments[0] for group in played]
        num_prompt_tokens = sum(len(prompt.token_ids) for prompt in prompts)
        num_new = sum(1 + len(t.segments[2].token_ids) for t in trajectories)
        shares = first / num_prompt_tokens, second / num_new
        print(
            f"prompts of {num_prompt_tokens / len(prompts):.0f} tokens: {shares[0]:.2f} computed "
            f"per token of a group's; in second turns {shares[1]:.2f} per new token"
        )
        return shares

    def load(self, work: Workload, groups: Sequence[Assignment]) -> dict[int, Turn]:
        """Makes a workload the next to be played."""
        turns = script(work, groups)
        self.players.engine.script = turns
        return turns

    async def timed(self, play: Awaitable[Any]) -> float:
        """Seconds, from an empty prefix cache on."""
        await self.engine.forget()
        started = time.perf_counter()
        await play
        return time.perf_counter() - started


async def with_engine(options: BenchOptions, model: str) -> Figures:
    """All that a real engine is needed for."""
    figures: Figures = {}
    engine = make_engine(model)
    with serving() as url:
        transport = HttpTransport(url)
        players, client = make_players(model, engine, transport)
        bench = Bench(players, client, options.repeats)
        try:
            await engine.start()
            groups = assignments(NUM_GROUPS)
            bench.load(draw(0, len(groups) * SAMPLES, 1), groups)
            await play_episodes(players, groups)  # connections, kernels
            if "speed" in options.parts:
                for name, shape in SHAPES.items():
                    figures[f"real_ratio{name}"] = await bench.speed(shape)
            if "single" in options.parts:
                figures["single_turn_share"] = await bench.single()
            if "prefix" in options.parts:
                share, second = await bench.prefix(LONG_QUESTION)
                figures |= {"prefix_computed_share": share, "second_turn_computed_share": second}
                figures["prefix_computed_share_short"], _ = await bench.prefix(QUESTION)
        finally:
            await engine.close()
            await transport.close()
    return figures


def without_engine(options: BenchOptions, model: str) -> Figures:
    """All that needs none."""
    figures: Figures = {}
    if "overhead" in options.parts:
        overhead = measure_overhead(model, draw(0, CONCURRENT, 1))
        turn_ms = overhead.turn_ms
        print(
            f"event loop: {median(turn_ms):.3f} ms per turn ({min(turn_ms):.3f} to "
            f"{max(turn_ms):.3f}); {overhead.growth_mib:.2f} MiB more per 10,000 trajectories"
        )
        figures["overhead_ms_per_turn"] = median(turn_ms)
        figures["memory_growth"] = overhead.growth_mib
        with serving() as url:
            search_ms = asyncio.run(measure_searches(url))
        print(f"a search over HTTP, 500 under way: {median(search_ms):.3f} ms")
        figures["http_ms_per_search"] = median(search_ms)
    if "simulated" in options.parts:
        for name, shape in SHAPES.items():
            title = f"scripted, {shape}"
            seeds = progress(NUM_WORKLOADS // shape.num_batches, title)
            pairs = [simulate(model, shape, seed) for seed in seeds]
            figures[f"scripted_ratio{name}"] = report(title, "lock-step", pairs)
            if shape.num_batches == 1:
                bounds = [
                    lock_step_s / longest_alone_s(shape.draw(seed))
                    for seed, (lock_step_s, _) in enumerate(pairs)
                ]
                figures[f"scripted_bound{name}"] = median(bounds)
                print(f"  the longest trajectory alone allows a ratio of {median(bounds):.2f}")
    return figures


def report(title: str, baseline: str, pairs: Sequence[tuple[float, float]]) -> float:
    """Prints seconds of both sides; returns the median of the ratios."""
    ratios = [theirs / ours for theirs, ours in pairs]
    theirs, ours = (median(side) for side in zip(*pairs, strict=True))
    print(
        f"{title}: {baseline} {theirs:.2f} s, ours {ours:.2f} s, ratio {median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} pairs)"
    )
    return median(ratios)


def progress(count: int, what: str) -> Iterable[int]:
    """0, 1, ... with a bar."""
    return track(range(count), what, console=Console(stderr=True))


def main() -> None:
    options = parse_command_line(BenchOptions, prog="rollout.py", about=__doc__)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or f"{folder}/model"
        if options.model is None:
            make_random_model(model)
        figures = without_engine(options, model)
        if {"speed", "single", "prefix"} & set(options.parts):
            figures |= asyncio.run(with_engine(options, model))
    rounded = {name: round(value, 3) for name, value in figures.items()}
    tell("rollout", rounded)

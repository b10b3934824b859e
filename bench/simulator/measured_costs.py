"""Costs for the simulation, from real components on this machine: an engine, a run, the driver."""

import asyncio
import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import fmean, median
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from bench.simulator.parts import Costs, DriverCosts, EngineCosts, RetrievalCosts, UpdateCosts
from bench.simulator.real_run import RealRun
from bench.simulator.simulation import simulate
from bench.simulator.worker import Scenario, Shape
from ur2.algorithms.options import AlgorithmOptions
from ur2.curriculum.curriculum import Curriculum
from ur2.curriculum.options import CurriculumOptions
from ur2.policy.batch.packing import plan
from ur2.rollout.engines.base import Engine, GenerationRequest
from ur2.rollout.engines.factory import make_engine
from ur2.rollout.options import RolloutOptions
from ur2.trainer.batching import to_batch
from ur2.trainer.options import TrainerOptions
from ur2.trainer.record.metrics import step_metrics
from ur2.trainer.record.run_directory import RunDirectory
from ur2.types import (
    Assignment,
    Author,
    Group,
    Level,
    Question,
    Score,
    ScoredGroup,
    Segment,
    Status,
    Trajectory,
    VersionRun,
)

Array = NDArray[np.float64]
BATCHES = (1, 8, 32, 128)
TURN_TOKENS = (1, 8, 24)
PROMPT_TOKENS = (12, 72)
REPEATS = 3
MIN_TOKEN_ID, MAX_TOKEN_ID = 20, 1000
SCORE_S = 1 / 26_900
"""Of a trajectory, by its rules: section `rewards` of RESULTS.md."""


def questions(num: int) -> list[Question]:
    """Questions that only their number tells apart."""
    return [
        Question(id=str(i), task="qa", text="", answers=("",), level=Level.HARD) for i in range(num)
    ]


# the engine


async def measure_engine(options: RolloutOptions, model: Path) -> EngineCosts:
    """A real engine under batches of several sizes and lengths."""
    engine = make_engine(
        options.engine,
        model_path=str(model),
        dtype="float32",
        max_model_len=options.max_model_len,
        seed=0,
    )
    await engine.start()
    rng = Random(0)
    try:
        await _time_batch(engine, rng, 32, PROMPT_TOKENS[-1], TURN_TOKENS[-1])  # warms it up
        cases = [(b, p, t) for b in BATCHES for p in PROMPT_TOKENS for t in TURN_TOKENS]
        rounds = [[await _time_batch(engine, rng, *case) for case in cases] for _ in range(REPEATS)]
    finally:
        await engine.close()
    # the fastest of each case: what else the machine does only ever adds to it
    timed = [min(repeats, key=lambda repeat: repeat[1]) for repeats in zip(*rounds, strict=True)]
    weight_N = 1.0 / np.array([seconds for _, seconds in timed])  # relative errors
    counts_NC = np.array([counts for counts, _ in timed], dtype=float)
    step_s, sequence_s, request_s, prefill_s = not_negative(
        counts_NC * weight_N[:, None], np.ones(len(timed))
    )
    return EngineCosts(
        step_s=step_s, sequence_s=sequence_s, request_s=request_s, prefill_s=prefill_s
    )


async def _time_batch(
    engine: Engine, rng: Random, num: int, num_prompt_tokens: int, num_tokens: int
) -> tuple[tuple[int, int, int, int], float]:
    """Steps, tokens, requests and prompt tokens of one batch, and the seconds it took."""
    requests = [
        GenerationRequest(
            token_ids=tuple(
                rng.randrange(MIN_TOKEN_ID, MAX_TOKEN_ID) for _ in range(num_prompt_tokens)
            ),
            max_tokens=num_tokens,
            seed=rng.randrange(1 << 31),
        )
        for _ in range(num)
    ]
    started = time.perf_counter()
    written = await asyncio.gather(*map(engine.generate, requests))
    seconds = time.perf_counter() - started
    lengths = [len(generation.token_ids) for generation in written]
    return (max(lengths), sum(lengths), num, num * num_prompt_tokens), seconds


def not_negative(row_NC: Array, target_N: Array) -> list[float]:
    """Least squares with coefficients of at least 0: what would be below is left out."""
    kept = list(range(row_NC.shape[1]))
    while True:
        solution = np.linalg.lstsq(row_NC[:, kept], target_N, rcond=None)[0]
        if (solution >= 0).all():
            return [
                float(solution[kept.index(c)]) if c in kept else 0.0 for c in range(row_NC.shape[1])
            ]
        kept.pop(int(solution.argmin()))


# a run


class Replay:
    """The workload of a real run, group by group."""

    def __init__(self, run: RealRun) -> None:
        self._run = run
        self._names = sorted(run.shapes)

    def shapes(self, assignment: Assignment, num_samples: int, rng: Random) -> list[Shape]:
        return list(self._run.shapes[self._known(assignment, rng)])

    def is_informative(self, assignment: Assignment, rng: Random) -> bool:
        return self._known(assignment, rng) in self._run.informative

    def _known(self, assignment: Assignment, rng: Random) -> str:
        """One that was drawn ahead of the run's end was not played in it: any stands in for it."""
        return assignment.id if assignment.id in self._run.shapes else rng.choice(self._names)


def step_s(metrics: dict[str, float]) -> float:
    """A step's seconds without what is no part of every step."""
    return metrics["time/step_s"] - metrics["time/checkpoint_s"] - metrics["time/evaluate_s"]


def fit(run: RealRun, engine: EngineCosts, steps: Sequence[int], cores: float) -> Costs:
    """Costs from some steps of a synchronous run on a machine with so many processors.

    What an engine costs beside the other processes is a multiple of what it costs alone; the
    multiple is that under which the simulated steps take as long as the real ones.
    """
    assert run.mode == "sync"
    known = [m for m in run.metrics if m["step"] in steps]
    num_ranks = run.config["policy"]["num_ranks"]
    unit = UpdateCosts(fixed_s=0.0, token_s=1.0, num_ranks=num_ranks)
    updates = [(m, run.trained_lengths(int(m["step"]))) for m in known]
    row_NC = np.array([(1.0, unit.seconds(lengths)) for _, lengths in updates if lengths])
    target_N = np.array([m["time/update_s"] for m, lengths in updates if lengths])
    fixed_s, token_s = not_negative(row_NC, target_N)
    sync_s = median(m["time/sync_s"] for m in known)
    load_s = min(run.load_s, sync_s)
    costs = Costs(
        engine=engine,
        retrieval=RetrievalCosts(latency_s=lambda rng: rng.choice(run.latencies_s)),
        update=UpdateCosts(fixed_s=fixed_s, token_s=token_s, num_ranks=num_ranks),
        driver=DriverCosts(
            step_s=median(m["time/advantage_s"] + m["time/report_s"] for m in known)
        ),
        publish_s=sync_s - load_s,
        load_s=load_s,
        cores=cores,
        rollout_demand=run.demand.get("rollout", 1.0),
        update_demand=run.demand.get("update", float(num_ranks)),
    )
    real_s = fmean(m["time/rollout_s"] for m in known)
    low, high = 0.05, 20.0
    while high / low > 1.005:
        factor = (low * high) ** 0.5
        tried = replace(costs, engine=engine.times(factor))
        simulated = simulate(replayed(run, tried, "sync"))
        took_s = fmean(simulated[i - 1].seconds["rollout"] for i in steps)
        low, high = (factor, high) if took_s < real_s else (low, factor)
    return replace(costs, engine=engine.times((low * high) ** 0.5))


def replayed(run: RealRun, costs: Costs, mode: str) -> Scenario:
    """The run, simulated in a mode."""
    trainer, rollout = run.config["trainer"], run.config["rollout"]
    options = TrainerOptions.load({**trainer, "mode": mode}, where="trainer")
    return Scenario(
        trainer=options,
        costs=costs,
        workload=Replay(run),
        curriculum=lambda: Curriculum(
            questions(1000), CurriculumOptions(), 0, options.questions_per_step
        ),
        num_engines=rollout["num_workers"],
        max_num_seqs=rollout["engine"]["max_num_seqs"],
        samples_per_prompt=rollout["samples_per_prompt"],
    )


# the driver


def measure_driver(num_policy_tokens: int, num_observed: int) -> DriverCosts:
    """What the driver does with a step's trajectories, on real records of this size."""
    groups = [_scored_group(number, 8, num_policy_tokens, num_observed) for number in range(32)]
    num = sum(len(scored.scores) for scored in groups)
    packets = [pickle.dumps(scored.group) for scored in groups]
    algorithm = AlgorithmOptions()

    def receive() -> None:
        for packet in packets:
            pickle.loads(packet)

    def batch() -> None:
        planned = plan(
            to_batch(groups, algorithm),
            num_updates=1,
            num_ranks=8,
            max_tokens_per_microbatch=32768,
        )
        for rank in range(8):
            pickle.dumps(planned.for_rank(rank))

    with TemporaryDirectory() as folder:
        run = RunDirectory(Path(folder))
        (run.path / "trajectories").mkdir()

        def report() -> None:
            step_metrics(groups, version=0)
            run.write_trajectories(1, groups)

        return DriverCosts(
            receive_s=_fastest_s(receive) / num + SCORE_S,
            batch_s=_fastest_s(batch) / num,
            report_s=_fastest_s(report) / num,
        )


def _fastest_s(work: Callable[[], None]) -> float:
    """Processor time."""
    times = []
    for _ in range(5):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def _scored_group(number: int, size: int, num_policy_tokens: int, num_observed: int) -> ScoredGroup:
    rng = Random(number)
    assignment = Assignment(
        id=f"000001-{number:04d}", question=questions(1)[0], retrieval=True, reason="", step=1
    )

    def segment(author: Author, count: int) -> Segment:
        return Segment(
            author=author,
            token_ids=tuple(rng.randrange(150_000) for _ in range(count)),
            text="word " * count,
            logprobs=tuple(rng.random() for _ in range(count)) if author is Author.POLICY else (),
            weight_versions=(VersionRun(0, count),) if author is Author.POLICY else (),
        )

    trajectories = tuple(
        Trajectory(
            id=f"{assignment.id}/{i}",
            segments=(
                segment(Author.PROMPT, 300),
                segment(Author.POLICY, num_policy_tokens // 2),
                segment(Author.ENVIRONMENT, num_observed),
                segment(Author.POLICY, num_policy_tokens - num_policy_tokens // 2),
            ),
            events=(),
            status=Status.ANSWERED,
        )
        for i in range(size)
    )
    scores = tuple(Score(total=float(i % 2), parts={}, correct=float(i % 2)) for i in range(size))
    return ScoredGroup(group=Group(assignment=assignment, trajectories=trajectories), scores=scores)

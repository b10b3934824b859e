"""The simulation of scripts/bench/scale.py: what it keeps, and what it must come out at."""

import asyncio
from dataclasses import replace
from itertools import pairwise
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.simulator import h100, parts, simulation, virtual_time, worker
from bench.simulator import measured_costs as measured
from bench.simulator import real_run as real
from ur2.curriculum.curriculum import Curriculum
from ur2.curriculum.options import CurriculumOptions
from ur2.policy.batch.packing import num_tokens, plan
from ur2.trainer.options import TrainerOptions
from ur2.trainer.record.timeline import Timeline
from ur2.types import Batch, Level, Question, Sample

QUESTIONS = [
    Question(id=str(i), task="qa", text="", answers=("",), level=Level.HARD) for i in range(64)
]


Turn, Shape = worker.Turn, worker.Shape


class Varied:
    """Trajectories of up to three turns; most groups carry signal."""

    def shapes(self, assignment, num_samples, rng):
        return [
            Shape(20, (*(Turn(rng.randrange(1, 40), 15) for _ in range(rng.randrange(3))), last))
            for last in (Turn(rng.randrange(1, 40), None) for _ in range(num_samples))
        ]

    def is_informative(self, assignment, rng):
        return rng.random() < 0.7


class Equal:
    """Every trajectory is the same."""

    def __init__(self, shape):
        self.shape = shape

    def shapes(self, assignment, num_samples, rng):
        return [self.shape] * num_samples

    def is_informative(self, assignment, rng):
        return True


def costs(**changes):
    default = parts.Costs(
        engine=parts.EngineCosts(step_s=0.01, sequence_s=0.001, prefill_s=0.0002),
        retrieval=parts.RetrievalCosts(latency_s=lambda rng: rng.expovariate(5.0)),
        update=parts.UpdateCosts(fixed_s=0.2, token_s=0.0005),
        publish_s=0.05,
        load_s=0.1,
    )
    return replace(default, **changes)


def scenario(mode="sync", *, workload=None, steps=6, questions=4, staleness=1, **changes):
    trainer = TrainerOptions(
        steps=steps, questions_per_step=questions, mode=mode, max_staleness=staleness
    )
    values = {"costs": costs(), "num_engines": 2, "samples_per_prompt": 4, "max_num_seqs": 16}
    return worker.Scenario(
        trainer=trainer,
        workload=workload or Varied(),
        curriculum=lambda: Curriculum(QUESTIONS, CurriculumOptions(), 0, questions),
        **(values | changes),
    )


@settings(max_examples=40, deadline=None)
@given(
    mode=st.sampled_from(["sync", "one_step_off", "async"]),
    staleness=st.integers(0, 3),
    num_engines=st.integers(1, 5),
    max_num_seqs=st.sampled_from([1, 8, 64]),
    update_s=st.sampled_from([0.0, 0.3, 5.0]),
    seed=st.integers(0, 100),
)
def test_every_group_is_trained_on_or_rejected_once(
    mode, staleness, num_engines, max_num_seqs, update_s, seed
):
    steps = simulation.simulate(
        scenario(
            mode,
            staleness=staleness,
            num_engines=num_engines,
            max_num_seqs=max_num_seqs,
            seed=seed,
            costs=costs(update=parts.UpdateCosts(fixed_s=update_s, token_s=1e-4)),
        )
    )
    taken = [name for step in steps for name in (*step.trained, *step.rejected)]
    assert sorted(taken) == [f"{step:06d}-{i:04d}" for step in range(1, 7) for i in range(4)]
    bound = {"sync": 0, "one_step_off": 1, "async": staleness}[mode]
    assert max(step.oldest for step in steps) <= bound
    assert all(0.0 <= step.rollout_idle <= 1.0 for step in steps)


def test_in_mode_sync_nothing_is_sampled_beside_an_update_and_in_the_others_it_is():
    def sampled_s(step):
        return step.total_s * (1.0 - step.rollout_idle) * 2

    for step in simulation.simulate(scenario("sync", num_engines=2)):
        assert sampled_s(step) <= 2 * step.seconds["rollout"] + 1e-9
    for mode in ("one_step_off", "async"):
        ahead = simulation.simulate(scenario(mode, num_engines=2))[1:-1]
        assert sum(map(sampled_s, ahead)) > 2 * sum(step.seconds["rollout"] for step in ahead)


def test_async_without_staleness_is_sync():
    sync = simulation.simulate(scenario("sync"))
    assert simulation.simulate(scenario("async", staleness=0)) == sync
    assert simulation.simulate(scenario("async", staleness=1)) != sync


@pytest.mark.parametrize("mode", ["sync", "one_step_off", "async"])
def test_more_engines_are_never_slower(mode):
    shape = Shape(20, (Turn(30, 10), Turn(20, None)))
    still = costs(retrieval=parts.RetrievalCosts(latency_s=lambda rng: 0.3))
    for workload, cost, slack in ((Equal(shape), still, 1e-9), (Varied(), costs(), 0.01)):
        took_s = [
            sum(
                step.total_s
                for step in simulation.simulate(
                    scenario(mode, workload=workload, costs=cost, questions=8, num_engines=num)
                )
            )
            for num in (1, 2, 4, 8)
        ]
        assert took_s[-1] < took_s[0]
        assert all(b <= a * (1 + slack) for a, b in pairwise(took_s))


def test_a_step_of_equal_trajectories_takes_what_the_formula_says():
    engine = parts.EngineCosts(
        step_s=0.01, sequence_s=0.002, context_s=1e-5, request_s=0.003, prefill_s=0.0004
    )
    cost = costs(
        engine=engine,
        retrieval=parts.RetrievalCosts(latency_s=lambda rng: 0.5),
        update=parts.UpdateCosts(fixed_s=1.0, token_s=0.001, num_ranks=2),
        driver=parts.DriverCosts(receive_s=0.01, batch_s=0.02, report_s=0.03, step_s=0.04),
    )
    shape = Shape(100, (Turn(10, 50), Turn(20, None)))
    (step,) = simulation.simulate(
        scenario(workload=Equal(shape), steps=1, questions=1, num_engines=1, costs=cost)
    )
    n = 4
    first = n * 0.003 + 100 * 0.0004 + 10 * (0.01 + n * 0.002) + 1e-5 * n * (100 * 10 + 50)
    searched = 0.5
    # the documents of all four are read at once, and none is cached
    second = n * 0.003 + n * 50 * 0.0004
    second += 20 * (0.01 + n * 0.002) + 1e-5 * n * (160 * 20 + 200)
    received = n * 0.01
    assert step.seconds["rollout"] == pytest.approx(first + searched + second + received)
    assert step.seconds["advantage"] == pytest.approx(n * 0.02)
    assert step.seconds["update"] == pytest.approx(1.0 + 2 * 180 * 0.001)
    assert step.seconds["sync"] == pytest.approx(0.15)
    assert step.seconds["report"] == pytest.approx(n * 0.03 + 0.04)


def test_parts_that_share_processors_slow_each_other_down():
    async def run(num):
        cores = virtual_time.Cores(num)
        loop = asyncio.get_running_loop()
        short = asyncio.ensure_future(cores.work(1.0, demand=2.0))
        await asyncio.gather(short, cores.work(3.0, demand=2.0))
        return loop.time()

    assert virtual_time.run_virtually(run(4)) == pytest.approx(3.0)
    assert virtual_time.run_virtually(run(2)) == pytest.approx(2 * 1.0 + 2.0)  # alone in the end


def test_a_replica_takes_what_waits_as_one_batch():
    cost = parts.RetrievalCosts(latency_s=lambda rng: 0.25, max_batch=2, batch_s=1.0, query_s=0.1)

    async def run():
        loop, ended_s = asyncio.get_running_loop(), []
        retrieval = parts.Retrieval(cost, virtual_time.Cores(float("inf")), Random(0))
        for _ in range(4):
            retrieval.search(lambda: ended_s.append(loop.time()))
        await asyncio.sleep(60)
        return ended_s

    assert virtual_time.run_virtually(run()) == pytest.approx([1.35, 2.55, 2.55, 3.65])


def test_an_engine_gives_tokens_as_one_that_is_followed_step_by_step():
    cost = parts.EngineCosts(step_s=0.01, sequence_s=0.001, context_s=1e-6, prefill_s=1e-4)
    rng = Random(3)
    requests = sorted(
        (rng.uniform(0.0, 3.0), rng.randrange(50, 500), rng.randrange(1, 120)) for _ in range(60)
    )

    async def run():
        loop = asyncio.get_running_loop()
        engine, ended_s = parts.Engine(cost, virtual_time.Cores(float("inf")), 0.0), {}
        for number, (start_s, context, count) in enumerate(requests):
            await asyncio.sleep(start_s - loop.time())
            engine.write(
                context, context, count, lambda n=number: ended_s.setdefault(n, loop.time())
            )
        await asyncio.sleep(60)
        return ended_s

    ended_s, expected_s = virtual_time.run_virtually(run()), step_by_step(requests, cost)
    assert len(ended_s) == len(requests)
    for number, end_s in expected_s.items():
        slowest_step_s = 0.01 + 60 * 0.001 + 60 * 600 * 1e-6
        assert ended_s[number] == pytest.approx(end_s, abs=3 * slowest_step_s)
    assert max(ended_s.values()) == pytest.approx(max(expected_s.values()), rel=0.01)


def step_by_step(requests, cost):
    """Ends by request: whole steps, each with the requests that have arrived before it."""
    waiting, running, ended_s, now_s = list(enumerate(requests)), {}, {}, 0.0
    while waiting or running:
        if not running:
            now_s = max(now_s, waiting[0][1][0])
        while waiting and waiting[0][1][0] <= now_s:
            number, (_, context, count) = waiting.pop(0)
            running[number] = [context, count]
            now_s += cost.prefill_s * context
        now_s += cost.step_s + cost.sequence_s * len(running)
        now_s += cost.context_s * sum(context for context, _ in running.values())
        for number, state in list(running.items()):
            state[0] += 1
            state[1] -= 1
            if not state[1]:
                ended_s[number] = now_s
                del running[number]
    return ended_s


def test_weights_hold_an_engine_up_and_make_it_read_what_is_in_flight_again():
    cost = parts.EngineCosts(step_s=0.01, prefill_s=0.001)

    async def run(*, reload):
        loop = asyncio.get_running_loop()
        engine, ended = parts.Engine(cost, virtual_time.Cores(float("inf")), 0.0), asyncio.Event()
        engine.write(100, 0, 50, ended.set)
        await asyncio.sleep(0.2)
        if reload:
            engine.pause()
            await asyncio.sleep(1.0)
            engine.resume()
        await ended.wait()
        return loop.time()

    plain_s = virtual_time.run_virtually(run(reload=False))
    assert plain_s == pytest.approx(0.5)
    assert virtual_time.run_virtually(run(reload=True)) == pytest.approx(
        plain_s + 1.0 + 0.001 * 120
    )


def test_an_update_costs_what_the_fullest_rank_reads_in_the_product_s_plan():
    lengths = [round(x) for x in np.random.default_rng(0).lognormal(5, 0.8, 400) + 2]
    batch = Batch(samples=tuple(sample(i, n) for i, n in enumerate(lengths)))
    planned = plan(batch, num_updates=2, num_ranks=8, max_tokens_per_microbatch=10**6)
    shares = [planned.for_rank(rank).steps for rank in range(8)]
    expected = sum(
        max(sum(num_tokens(m) for m in steps[number].microbatches) for steps in shares)
        for number in range(2)
    )
    unit = parts.UpdateCosts(fixed_s=0.0, token_s=1.0, num_ranks=8, num_steps=2)
    assert unit.seconds([n - 1 for n in lengths]) == pytest.approx(expected, rel=0.05)
    assert unit.seconds([7]) == 7.0


def sample(number, length):
    mask = np.ones(length, dtype=np.bool_)
    mask[0] = False
    zeros = np.zeros(length, dtype=np.float32)
    return Sample(
        id=str(number),
        token_ids=np.zeros(length, dtype=np.int64),
        mask=mask,
        advantages=zeros,
        sampler_logprobs=zeros,
    )


def test_a_fit_finds_the_costs_that_a_run_was_made_with():
    engine = parts.EngineCosts(step_s=0.004, sequence_s=0.0004, prefill_s=1e-5)
    true = costs(
        engine=engine.times(1.7),
        retrieval=parts.RetrievalCosts(latency_s=lambda rng: 0.1),
        update=parts.UpdateCosts(fixed_s=0.3, token_s=0.0002, num_ranks=2),
        driver=parts.DriverCosts(step_s=0.07),
        cores=2.0,
        rollout_demand=1.5,
        update_demand=2.0,
    )
    made = scenario(workload=Varied(), steps=12, questions=8, num_engines=1, costs=true)
    run = recorded(made)
    assignments = [SimpleNamespace(id=name) for name in run.shapes]
    assert [Varied().shapes(a, 4, made.rng(a, "shapes")) for a in assignments] == [
        list(run.shapes[a.id]) for a in assignments
    ]
    found = measured.fit(run, engine, range(2, 13, 2), cores=2.0)
    assert found.engine.step_s / engine.step_s == pytest.approx(1.7, rel=0.02)
    assert found.update.fixed_s == pytest.approx(0.3, rel=1e-6)
    assert found.update.token_s == pytest.approx(0.0002, rel=1e-6)
    expected = simulation.simulate(
        replace(made, trainer=made.trainer.model_copy(update={"mode": "async"}))
    )
    predicted = simulation.simulate(measured.replayed(run, found, "async"))
    assert sum(s.total_s for s in predicted) == pytest.approx(
        sum(s.total_s for s in expected), rel=0.02
    )


def recorded(made):
    """A simulated run as a real one would leave it."""
    steps = simulation.simulate(made)
    names = [name for step in steps for name in (*step.trained, *step.rejected)]
    shapes = {
        name: tuple(Varied().shapes(None, 4, made.rng(SimpleNamespace(id=name), "shapes")))
        for name in names
    }
    return real.RealRun(
        config={
            "policy": {"num_ranks": 2},
            "trainer": made.trainer.model_dump(mode="json"),
            "rollout": {
                "num_workers": 1,
                "samples_per_prompt": 4,
                "engine": {"max_num_seqs": made.max_num_seqs},
            },
        },
        metrics=[
            {"step": number, **{f"time/{name}_s": s for name, s in step.seconds.items()}}
            for number, step in enumerate(steps, start=1)
        ],
        shapes=shapes,
        informative=frozenset(name for step in steps for name in step.trained),
        latencies_s=(0.1,),
        demand={"rollout": 1.5, "update": 2.0},
        others=0.0,
        load_s=0.1,
    )


def test_the_processors_that_a_phase_used_are_read_from_the_run(tmp_path):
    timeline = Timeline(tmp_path / "timeline.json")
    for start_s, name, end_s in (
        (100.0, "rollout", 104.0),
        (104.0, "update", 106.0),
        (106.0, "rollout", 110.0),
        (110.0, "update", 112.0),
    ):
        timeline.add("loop", name, start_s, end_s)
        timeline.add("rollout worker 0", "weights 3", end_s, end_s + 0.25)
    timeline.flush()
    used = [(99.0 + t / 4, 1.5 * t / 4, 1.7 * t / 4) for t in range(60)]
    (tmp_path / real.CPU_FILE).write_text("".join(f"{list(sample)}\n" for sample in used))
    demand, others = real._used(tmp_path)
    assert others == pytest.approx(0.2)
    assert demand == {"rollout": pytest.approx(1.5), "update": pytest.approx(1.5)}
    assert real._load_s(tmp_path / "timeline.json") == pytest.approx(0.25)


def test_a_trajectory_is_read_turn_by_turn():
    def segments(*authors):
        return [{"author": author, "token_ids": [0] * count} for author, count in authors]

    shape = real._shape(
        segments(("prompt", 9), ("policy", 5), ("environment", 7), ("policy", 3), ("injected", 2))
    )
    assert shape == Shape(9, (Turn(5, 7), Turn(3, None)))


def test_least_squares_leaves_out_what_would_be_negative():
    rows = np.random.default_rng(0).random((50, 3))
    assert measured.not_negative(rows, rows @ [1.0, 0.0, 2.0]) == pytest.approx([1.0, 0.0, 2.0])
    fitted = measured.not_negative(rows, rows @ [1.0, -0.5, 2.0])
    assert fitted[1] == 0.0
    assert min(fitted) >= 0.0


def test_assumed_costs_are_those_that_the_text_works_out():
    one, many = (h100.costs(num, parts.DriverCosts()) for num in (8, 1024))
    assert one.engine.step_s == pytest.approx(2.84e-3 + 0.56e-3 + 1e-3, rel=0.01)
    assert one.engine.context_s == pytest.approx(10.7e-9, rel=0.01)
    assert one.update.token_s == pytest.approx(143e-6, rel=0.01)
    together, apart = (
        h100.costs(64, parts.DriverCosts(), colocated=colocated) for colocated in (True, False)
    )
    assert together.update.num_ranks == 2 * apart.update.num_ranks == 64
    assert together.update.fixed_s < apart.update.fixed_s  # twice the ports
    assert h100.num_engines(1024, colocated=True) == 2 * h100.num_engines(1024) == 512
    assert together.load_s == pytest.approx(0.6 + 2 * 1.0)
    assert many.update.num_ranks == 512
    assert many.update.fixed_s > one.update.fixed_s
    lengths = Random(0)
    shapes = h100.Trajectories().shapes(None, 2000, lengths)
    assert all(turn.num_tokens <= h100.MAX_TURN for shape in shapes for turn in shape.turns)

"""The two sides of scripts/bench/rollout.py: the same work, in the time that it must take."""

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.rollout import lockstep, paced, plays, skipping
from ur2.retrieval.client.retriever import LocalTransport

NUM = 2 * paced.SAMPLES


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("paced") / "model")
    paced.make_random_model(folder)
    return folder


def run(scenario):
    loop = skipping.SkippingLoop(lambda: 0.0)
    try:
        return loop.run_until_complete(scenario)
    finally:
        loop.close()


class Counting:
    """Passes on to an engine; keeps what was asked."""

    def __init__(self, inner):
        self.inner = inner
        self.asked = {}

    async def generate(self, request):
        self.asked[request.seed] = request.token_ids, request.max_tokens
        return await self.inner.generate(request)


def both(model, work, *, sequence_s):
    """What each side asked its engine, and how long it took."""
    groups = paced.assignments(NUM // paced.SAMPLES)

    async def play(way):
        engine = Counting(paced.SteppingEngine(step_s=1.0, sequence_s=sequence_s))
        players, client = paced.make_players(model, engine, LocalTransport(paced.Replayed()))
        players.engine.script = paced.script(work, groups)
        await way(players, client)
        return engine.asked, loop_s()

    def in_lock_step(players, client):
        return lockstep.play_in_lock_step(
            players, client, groups, paced.SAMPLES, paced.SAMPLING, seed=paced.SEED
        )

    def as_a_run(players, client):
        return plays.play_episodes(players, groups)

    return run(play(in_lock_step)), run(play(as_a_run))


def loop_s():
    return asyncio.get_running_loop().time()


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10_000), num_searches=st.integers(0, 3))
def test_both_sides_do_the_same_work_and_wait_for_nothing_else(model, seed, num_searches):
    work = paced.draw(seed, NUM, num_searches)
    (theirs, lock_step_s), (ours, ours_s) = both(model, work, sequence_s=0.0)
    assert theirs == ours
    assert sum(length for _, length in ours.values()) == work.num_tokens
    barriers = work.lengths_BT.max(axis=0).sum() + work.latencies_BS.max(axis=0, initial=0).sum()
    assert lock_step_s == pytest.approx(barriers, abs=1e-4)
    alone = work.lengths_BT.sum(axis=1) + work.latencies_BS.sum(axis=1)
    # A turn begins with the engine's next step.
    assert alone.max() - 1e-4 <= ours_s <= alone.max() + num_searches


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_steps_with_extra_groups_do_the_same_work_in_less_time(model, seed):
    shape = plays.SHAPES["_oversampled"]
    groups = shape.groups

    async def play(way):
        engine = Counting(paced.SteppingEngine(step_s=0.02, sequence_s=0.0))
        players, client = paced.make_players(model, engine, LocalTransport(paced.Replayed()))
        players.engine.script = paced.script(shape.draw(seed), groups)
        await way(players, client)
        return engine.asked, loop_s()

    def in_lock_step(players, client):
        return lockstep.play_in_rounds(
            players, client, groups, paced.SAMPLES, paced.SAMPLING, seed=paced.SEED
        )

    theirs, lock_step_s = run(play(in_lock_step))
    ours, ours_s = run(play(lambda players, _: shape.play(players, groups)))
    assert theirs == ours
    assert ours_s < lock_step_s


def test_a_step_takes_longer_the_more_sequences_are_in_it(model):
    work = paced.Workload(np.full((NUM, 1), 10), np.zeros((NUM, 0)))
    (_, lock_step_s), (_, ours_s) = both(model, work, sequence_s=0.1)
    assert lock_step_s == pytest.approx(10 * (1.0 + 0.1 * NUM))
    assert ours_s == pytest.approx(lock_step_s)


def test_workloads_are_as_described():
    work = paced.draw(0, 20_000, 3)
    assert work.lengths_BT.shape == (20_000, 4)
    assert work.latencies_BS.shape == (20_000, 3)
    assert np.median(work.lengths_BT) == 32
    assert (work.lengths_BT.min(), work.lengths_BT.max()) == (8, 160)
    assert np.quantile(work.latencies_BS, [0.5, 0.99]) == pytest.approx([0.3, 3.0], rel=0.05)


def test_the_loop_skips_waiting_and_counts_work():
    now = 0.0
    loop = skipping.SkippingLoop(lambda: now)

    async def work():
        nonlocal now
        await asyncio.sleep(100.0)
        now += 2.0
        await asyncio.sleep(10.0)
        return loop.time()

    try:
        assert loop.run_until_complete(work()) == pytest.approx(112.0)
    finally:
        loop.close()

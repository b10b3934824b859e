import asyncio

import pytest

from ur2.errors import ComponentError, InputError
from ur2.rollout.openings import check_observations
from ur2.rollout.options import SamplingOptions
from ur2.rollout.pool.rollout_pool import RolloutPool
from ur2.rollout.worker import RolloutWorker
from ur2.transfer.records import WeightFolder
from ur2.types import Passage, RetrievalFailed, Status

ANSWER = "<answer> Paris </answer>"


async def test_a_group_holds_every_sample_of_its_question_under_its_own_id(game):
    worker = RolloutWorker(game.make_players(game.ScriptedEngine(lambda _: ANSWER)), seed=0)
    group = await worker.run_group(game.assignment(id="3-1"), 4, SamplingOptions())
    assert [t.id for t in group.trajectories] == ["3-1/0", "3-1/1", "3-1/2", "3-1/3"]
    assert {t.status for t in group.trajectories} == {Status.ANSWERED}
    assert group.assignment.id == "3-1"


async def test_each_sample_is_drawn_at_its_own_temperature_whoever_plays_it(game):
    engine = game.ScriptedEngine(lambda _: ANSWER)
    worker = RolloutWorker(game.make_players(engine), seed=0)
    sampling = SamplingOptions(temperatures=(0.1, 0.4, 1.0))
    await worker.run_group(game.assignment(), 4, sampling)
    assert [request.temperature for request in engine.requests] == [0.1, 0.4, 1.0, 0.1]
    engine.requests.clear()
    await worker.run_group(game.assignment(), 2, sampling, first=2)
    assert [request.temperature for request in engine.requests] == [1.0, 0.1]


async def test_the_samples_of_a_group_share_one_prompt(game):
    worker = RolloutWorker(game.make_players(game.ScriptedEngine(lambda _: ANSWER)), seed=0)
    group = await worker.run_group(game.assignment(), 4, SamplingOptions())
    prompts = [t.segments[0] for t in group.trajectories]
    assert prompts[0].text.startswith("Where?")
    assert all(prompt is prompts[0] for prompt in prompts)


async def test_new_weights_label_what_is_sampled_after_them(game):
    engine = game.ScriptedEngine(lambda _: ANSWER)
    worker = RolloutWorker(game.make_players(engine), seed=0)
    await worker.take(WeightFolder("somewhere"), 12)
    group = await worker.run_group(game.assignment(), 1, SamplingOptions())
    assert group.trajectories[0].segments[1].weight_versions[0].version == 12


async def test_an_engine_that_takes_no_weights_in_time_is_an_error(game):
    engine = game.ScriptedEngine(lambda _: ANSWER, hangs=True)
    worker = RolloutWorker(game.make_players(engine, update_timeout_s=0.02), seed=0)
    with pytest.raises(ComponentError, match="weights 5"):
        await worker.take(WeightFolder("somewhere"), 5)


async def test_an_engine_whose_trajectories_all_search_is_idle_though_a_group_is_in_play(game):
    gate = asyncio.Event()
    engine = game.ScriptedEngine(game.turns("<search> a </search>", ANSWER))
    players = game.make_players(engine, game.ScriptedRetriever(gate=gate))
    pool = RolloutPool([RolloutWorker(players, seed=0)], players.options)
    playing = asyncio.ensure_future(pool.play(game.assignment(), 1, SamplingOptions()))
    await asyncio.sleep(0.3)
    gate.set()
    await playing
    writing_s, account = await pool.take_writing_s(), pool.take_account()
    assert account.idle_fraction < 0.1
    assert account.share_without(writing_s) > 0.9
    assert writing_s > 0.0
    assert await pool.take_writing_s() == 0.0


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_turn_has_its_whole_time_limit_though_the_engine_sleeps_meanwhile(game, hangs):
    engine, awake = game.ScriptedEngine(lambda _: ANSWER), asyncio.Event()
    generate = engine.generate

    async def generate_awake(request):
        await awake.wait()
        engine.hangs = hangs
        return await generate(request)

    async def sleep(*, keep_weights): ...

    async def wake():
        awake.set()

    engine.generate, engine.sleep, engine.wake = generate_awake, sleep, wake
    worker = RolloutWorker(game.make_players(engine, generate_timeout_s=0.2), seed=0)
    playing = asyncio.create_task(worker.run_group(game.assignment(), 2, SamplingOptions()))
    await asyncio.sleep(0)
    await worker.sleep(keep_weights=False)
    await asyncio.sleep(0.3)
    assert not playing.done()
    await worker.wake()
    if hangs:
        with pytest.raises(ComponentError, match=r"no turn within 0\.2 s"):
            await asyncio.wait_for(playing, 5.0)
    else:
        assert (await playing).trajectories[1].status is Status.ANSWERED


@pytest.mark.parametrize(("retries", "status"), [(0, "tool_failed"), (1, "answered")])
async def test_an_episode_whose_tool_failed_is_played_anew_where_asked(game, retries, status):
    retriever = game.ScriptedRetriever(passages=RetrievalFailed(reason="down"))
    search = retriever.search

    async def search_in_vain_once(*asked, **how):
        found = await search(*asked, **how)
        retriever.passages = (Passage(id="p", text="Paris"),)
        return found

    retriever.search = search_in_vain_once
    engine = game.ScriptedEngine(game.turns("<search> a </search>", ANSWER))
    players = game.make_players(engine, retriever, tool_failed_retries=retries)
    worker = RolloutWorker(players, seed=0)
    group = await worker.run_group(game.assignment(), 1, SamplingOptions())
    assert group.trajectories[0].status == status
    assert (await worker.take_lost_tokens() > 0) == (retries > 0)


async def test_a_failed_episode_leaves_no_other_episode_running(game):
    engine = game.ScriptedEngine(lambda _: ANSWER)
    calls = 0
    running = 0

    async def generate(request):
        nonlocal calls, running
        calls += 1
        if calls == 3:
            raise ComponentError("engine gone")
        running += 1
        try:
            await asyncio.Event().wait()
        finally:
            running -= 1

    engine.generate = generate
    worker = RolloutWorker(game.make_players(engine), seed=0)
    with pytest.raises(ComponentError, match="engine gone"):
        await worker.run_group(game.assignment(), 4, SamplingOptions())
    assert calls >= 3
    assert running == 0


def test_an_observation_budget_that_holds_only_markers_is_refused(game):
    players = game.make_players(game.ScriptedEngine(lambda _: ""), max_observation_tokens=3)
    with pytest.raises(InputError, match="max_observation_tokens=3"):
        check_observations(players.renderer, players.game)

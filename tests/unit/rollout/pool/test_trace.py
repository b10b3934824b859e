"""What the pool tells of searches: each with its time, and until when all are told."""

import asyncio
import time

import pytest

from ur2.errors import ComponentError
from ur2.rollout.options import EngineOptions, RolloutOptions, SamplingOptions
from ur2.rollout.pool.rollout_pool import RolloutPool
from ur2.types import Group, Status, ToolUse, Trajectory

SAMPLING = SamplingOptions()
SEARCHES = (
    ToolUse(tool="search", arguments={"query": "a"}, outcome="found", start_s=100.0, latency_s=2.0),
    ToolUse(
        tool="search", arguments={"query": "b"}, outcome="failed", start_s=103.0, latency_s=1.0
    ),
    ToolUse(tool="search", arguments={"query": "c"}, outcome="refused"),
)


class Worker:
    """Plays a group once its event is set; one sample searches three times."""

    def __init__(self):
        self.may_end = {}

    async def run_group(self, assignment, num_samples, sampling, first=0, branches=()):
        await self.may_end.setdefault(assignment.id, asyncio.Event()).wait()
        (one,) = (
            Trajectory(id="t", segments=(), events=SEARCHES, status=Status.ANSWERED)
            for _ in range(num_samples)
        )
        return Group(assignment=assignment, trajectories=(one,))


async def test_searches_of_a_group_are_traced_when_they_were_made_but_for_refused_ones(game):
    spans, worker = [], Worker()
    pool = RolloutPool([worker], RolloutOptions(), trace=lambda *span: spans.append(span))
    worker.may_end["g"] = asyncio.Event()
    worker.may_end["g"].set()
    await pool.play(game.assignment(id="g"), 1, SAMPLING)
    first, second = [span for span in spans if span[0] == "retrieval"]
    assert [first[1], second[1]] == ["a", "b"]
    times = [at_s - first[2] for at_s in (*first[2:], *second[2:])]
    assert times == pytest.approx([0.0, 2.0, 3.0, 4.0], abs=1e-3)


async def test_searches_are_known_until_the_oldest_group_in_play_began(game):
    worker = Worker()
    pool = RolloutPool([worker], RolloutOptions(engine=EngineOptions(max_num_seqs=2)))
    began, plays = [], {}
    for name in ("old", "young", "waiting"):  # there are places for two
        began.append(time.time())
        plays[name] = asyncio.ensure_future(pool.play(game.assignment(id=name), 1, SAMPLING))
        await asyncio.sleep(0.01)
    assert began[0] <= pool.searches_known_s < began[1]
    worker.may_end["old"].set()
    await plays["old"]
    assert began[1] <= pool.searches_known_s < began[2]
    plays["young"].cancel()
    await asyncio.gather(plays["young"], return_exceptions=True)
    assert pool.searches_known_s > began[2]
    await asyncio.sleep(0)
    worker.may_end["waiting"].set()
    await plays["waiting"]
    assert abs(pool.searches_known_s - time.time()) < 1.0


class Dies(Worker):
    """Dies at once when it is to play."""

    async def run_group(self, assignment, num_samples, sampling, first=0, branches=()):
        raise ComponentError("died")


class StartsSlowly(Worker):
    async def start(self):
        await asyncio.sleep(0.2)

    async def run_group(self, assignment, num_samples, sampling, first=0, branches=()):
        self.may_end.setdefault(assignment.id, asyncio.Event()).set()
        return await super().run_group(assignment, num_samples, sampling, first, branches)


async def test_a_worker_that_starts_again_plays_nothing_meanwhile_and_the_timeline_shows_both(game):
    spans = []

    async def respawn(index):
        return StartsSlowly()

    pool = RolloutPool(
        [Dies()], RolloutOptions(), trace=lambda *span: spans.append(span), respawn=respawn
    )
    await pool.play(game.assignment(id="g"), 1, SAMPLING)
    died, started, played = [span for span in spans if span[0] == "rollout worker 0"]
    assert [died[1], started[1], played[1]] == ["g", "start", "g"]
    assert died[3] <= started[2] <= started[3] <= played[2]
    assert started[3] - started[2] >= 0.2
    account = pool.take_account()
    assert account.idle_fraction > 0.9


async def test_what_a_worker_does_is_on_the_timeline_though_it_fails(game):
    spans = []

    class Refuses(Worker):
        async def start(self): ...

        async def wake(self):
            await asyncio.sleep(0.01)
            raise ComponentError("no")

    pool = RolloutPool([Refuses()], RolloutOptions(), trace=lambda *span: spans.append(span))
    await pool.start()
    with pytest.raises(ComponentError):
        await pool.wake()
    assert [span[:2] for span in spans] == [
        ("rollout worker 0", "start"),
        ("rollout worker 0", "wake"),
    ]


@pytest.mark.parametrize("ahead_s", [-500.0, -0.5, 0.0, 0.5, 500.0])
async def test_searches_lie_within_their_group_though_the_clock_of_its_node_is_another(
    game, ahead_s
):
    spans = []

    class Elsewhere(Worker):
        async def run_group(self, assignment, num_samples, sampling, first=0, branches=()):
            await asyncio.sleep(0.1)
            now_s = time.time() + ahead_s
            searches = (
                ToolUse(
                    tool="search",
                    arguments={"query": "a"},
                    outcome="found",
                    start_s=now_s - 0.08,
                    latency_s=0.02,
                ),
                ToolUse(
                    tool="search",
                    arguments={"query": "b"},
                    outcome="found",
                    start_s=now_s - 0.05,
                    latency_s=0.04,
                ),
            )
            one = Trajectory(id="t", segments=(), events=searches, status=Status.ANSWERED)
            return Group(assignment=assignment, trajectories=(one,))

    pool = RolloutPool([Elsewhere()], RolloutOptions(), trace=lambda *span: spans.append(span))
    await pool.play(game.assignment(id="g"), 1, SAMPLING)
    (_, _, start_s, end_s), *searches = sorted(spans, key=lambda span: span[0] == "retrieval")
    assert [end - start for _, _, start, end in searches] == pytest.approx([0.02, 0.04], abs=1e-3)
    for _, _, start, end in searches:
        assert start_s - 1e-3 <= start <= end <= end_s + 1e-3

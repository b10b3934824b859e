import asyncio
from pathlib import Path

import pytest

from ur2.errors import ComponentError
from ur2.rollout.options import EngineOptions, RolloutOptions, SamplingOptions
from ur2.rollout.pool.rollout_pool import RolloutPool
from ur2.transfer.publication import Files
from ur2.types import Author, Group, Segment, Status, Trajectory

SAMPLING = SamplingOptions()
W = "/nowhere/weights"


class FakeWorker:
    """Takes `delay_s` per group; every trajectory has three policy tokens."""

    def __init__(self, delay_s=0.0, error=None, weights_error=None, refuses=None):
        self.delay_s = delay_s
        self.error = error
        self.weights_error = weights_error
        self.refuses = refuses
        self.groups = []
        self.in_play = 0
        self.most_in_play = 0
        self.calls = []

    async def start(self):
        self.calls.append("start")

    async def run_group(self, assignment, num_samples, sampling, first=0, branches=()):
        self.in_play += 1
        self.most_in_play = max(self.most_in_play, self.in_play)
        try:
            await asyncio.sleep(self.delay_s)
            if self.error is not None:
                raise self.error
        finally:
            self.in_play -= 1
        self.groups.append(assignment.id)
        written = Segment(
            author=Author.POLICY, token_ids=(1, 2, 3), text="", logprobs=(0.0, 0.0, 0.0)
        )
        read = Segment(author=Author.ENVIRONMENT, token_ids=(4,), text="")
        return Group(
            assignment=assignment,
            trajectories=tuple(
                Trajectory(
                    id=f"{assignment.id}/{i}",
                    segments=(written, read),
                    events=(),
                    status=Status.ANSWERED,
                )
                for i in range(first, first + num_samples)
            ),
        )

    async def take_lost_tokens(self):
        return 50

    async def take(self, handover, version):
        if self.weights_error is not None:
            raise self.weights_error
        self.calls.append((handover.path, version))

    async def sleep(self, *, keep_weights):
        self._change("sleep", "sleep kept" if keep_weights else "sleep")

    async def wake(self):
        self._change("wake", "wake")

    def _change(self, what, call):
        if self.refuses == what:
            raise ComponentError(f"no {what}")
        self.calls.append(call)

    async def close(self):
        self.calls.append("close")


def replacing(workers, **faults):
    """Puts a new worker into the list, and counts how often."""

    async def respawn(index):
        respawn.calls += 1
        workers[index] = FakeWorker(**faults)
        return workers[index]

    respawn.calls = 0
    return respawn


def options(*, max_num_seqs=8, overcommit=1.0, **rest):
    engine = EngineOptions(max_num_seqs=max_num_seqs)
    return RolloutOptions(engine=engine, overcommit=overcommit, **rest)


async def test_groups_come_back_in_order_each_once_and_the_account_adds_up(game):
    workers = [FakeWorker(0.001), FakeWorker(0.002)]
    pool = RolloutPool(workers, options(max_num_seqs=4))
    assignments = [game.assignment(id=f"0-{i}") for i in range(20)]
    groups = await pool.collect(assignments, 2, SAMPLING)
    assert [g.assignment.id for g in groups] == [a.id for a in assignments]
    assert sorted(workers[0].groups + workers[1].groups) == sorted(a.id for a in assignments)
    account = pool.take_account()
    assert account.num_sampled_tokens == 20 * 2 * 3
    assert [w.num_groups for w in account.workers] == [len(w.groups) for w in workers]
    assert [w.num_sampled_tokens for w in account.workers] == [6 * len(w.groups) for w in workers]
    assert all(0 < w.busy_s <= account.wall_s for w in account.workers)
    assert account.sampled_tokens_per_s == pytest.approx(120 / account.wall_s)
    assert 0 <= account.idle_fraction < 1


@pytest.mark.parametrize(("overcommit", "num_groups"), [(1.0, 2), (1.6, 3), (2.0, 4)])
async def test_a_worker_holds_no_more_groups_than_keep_its_engine_full(
    game, overcommit, num_groups
):
    worker = FakeWorker(0.001)
    pool = RolloutPool([worker], options(max_num_seqs=8, overcommit=overcommit))
    await pool.collect([game.assignment(id=str(i)) for i in range(12)], 4, SAMPLING)
    assert worker.most_in_play == num_groups


async def test_a_fast_worker_plays_more_groups_than_a_slow_one(game):
    fast, slow = FakeWorker(0.002), FakeWorker(0.2)
    pool = RolloutPool([fast, slow], options(max_num_seqs=4))
    await pool.collect([game.assignment(id=str(i)) for i in range(12)], 4, SAMPLING)
    assert len(slow.groups) == 1
    assert len(fast.groups) == 11


async def test_without_a_replacement_a_failing_worker_ends_everything(game):
    healthy, failing = FakeWorker(10.0), FakeWorker(error=ComponentError("gone"))
    pool = RolloutPool([healthy, failing], options())
    with pytest.raises(ComponentError, match="gone"):
        await pool.collect([game.assignment(id=str(i)) for i in range(2)], 1, SAMPLING)
    assert healthy.in_play == 0


async def test_a_worker_that_hangs_is_named(game):
    pool = RolloutPool([FakeWorker(10.0)], options(group_timeout_s=0.02))
    with pytest.raises(ComponentError, match=r"worker 0, group '7'.*0\.02 s"):
        await pool.collect([game.assignment(id="7")], 1, SAMPLING)


@pytest.mark.parametrize("broken", [{"error": ComponentError("gone")}, {"delay_s": 10.0}])
async def test_a_failed_worker_is_replaced_and_every_group_is_played_once(game, broken):
    workers = [FakeWorker(0.001), FakeWorker(**broken)]
    pool = RolloutPool(workers, options(group_timeout_s=0.2), respawn=replacing(workers))
    await pool.take(Files(Path(W), 3))
    groups = await pool.collect([game.assignment(id=str(i)) for i in range(20)], 2, SAMPLING)
    assert [group.assignment.id for group in groups] == [str(i) for i in range(20)]
    assert sorted(workers[0].groups + workers[1].groups) == sorted(str(i) for i in range(20))
    assert workers[1].calls == ["start", (W, 3)]


async def test_the_restarts_run_out(game):
    workers = [FakeWorker(error=ComponentError("gone"))]
    respawn = replacing(workers, error=ComponentError("gone again"))
    pool = RolloutPool(workers, options(max_worker_restarts=2), respawn=respawn)
    with pytest.raises(ComponentError, match="gone again"):
        await pool.collect([game.assignment(id="0")], 1, SAMPLING)
    assert respawn.calls == 2


@pytest.mark.parametrize("num_failures", [1, 2, 3])
async def test_a_successor_that_does_not_come_up_is_replaced_too_while_restarts_are_left(
    game, num_failures
):
    class DoesNotStart(FakeWorker):
        async def start(self):
            raise ComponentError("the memory is not free yet")

    workers = [FakeWorker(error=ComponentError("gone"))]
    successors = [*(DoesNotStart() for _ in range(num_failures)), FakeWorker()]

    async def respawn(index):
        return successors.pop(0)

    pool = RolloutPool(workers, options(max_worker_restarts=3), respawn=respawn)
    plays = [pool.play(game.assignment(id=str(i)), 1, SAMPLING) for i in range(3)]
    if num_failures == 3:
        with pytest.raises(ComponentError, match="not free yet"):
            await asyncio.gather(*plays)
    else:
        assert len(await asyncio.gather(*plays)) == 3
        assert successors == []


async def test_a_worker_that_refuses_weights_is_replaced_and_gets_them(game):
    workers = [FakeWorker(weights_error=ComponentError("no room"))]
    pool = RolloutPool(workers, options(), respawn=replacing(workers))
    await pool.take(Files(Path(W), 4))
    assert workers[0].calls == ["start", (W, 4)]


class ScriptedPublication:
    """Fails for the workers that it is told, once each."""

    def __init__(self, fails=()):
        self.fails = list(fails)
        self.delivered = []
        self.discarded = False

    async def deliver(self, receivers):
        workers = [receiver.worker for receiver in receivers]
        self.delivered.append(workers)
        await asyncio.sleep(0)
        return [
            ComponentError("lost") if w in self.fails and not self.fails.remove(w) else None
            for w in workers
        ]

    def discard(self):
        self.discarded = True


async def test_a_publication_gets_all_workers_at_once_and_later_those_that_replace_them():
    workers = [FakeWorker(), FakeWorker(), FakeWorker()]
    first, failing, third = workers
    pool = RolloutPool(workers, options(), respawn=replacing(workers))
    publication = ScriptedPublication([failing])
    await pool.take(publication)
    assert workers[1] is not failing
    assert publication.delivered == [[first, failing, third], [workers[1]]]


async def test_a_publication_is_kept_until_the_next_one_is_delivered():
    workers = [FakeWorker()]
    pool = RolloutPool(workers, options(), respawn=replacing(workers))
    old, new = ScriptedPublication(), ScriptedPublication([workers[0]])
    await pool.take(old)
    await pool.take(old)
    assert not old.discarded
    await pool.take(new)
    assert old.discarded
    assert not new.discarded


async def test_a_worker_that_starts_again_has_its_weights_before_others_get_newer_ones(game):
    workers = [FakeWorker(error=ComponentError("gone")), FakeWorker()]
    failed, healthy = workers
    started = asyncio.Event()

    async def respawn(index):
        started.set()
        await asyncio.sleep(0.02)
        workers[index] = FakeWorker()
        return workers[index]

    pool = RolloutPool(list(workers), options(max_num_seqs=1), respawn=respawn)
    old, new = ScriptedPublication(), ScriptedPublication()
    await pool.take(old)
    playing = asyncio.create_task(pool.collect([game.assignment(id="0")], 1, SAMPLING))
    await started.wait()
    await pool.take(new)
    await playing
    late = workers[0]
    assert old.delivered == [[failed, healthy], [late]]
    assert new.delivered == [[late, healthy]]


async def test_sleep_weights_and_wake_reach_every_worker_in_that_order():
    workers = [FakeWorker(), FakeWorker()]
    pool = RolloutPool(workers, options())
    await pool.sleep(keep_weights=False)
    await pool.take(Files(Path(W), 2))
    await pool.wake()
    assert [w.calls for w in workers] == [["sleep", (W, 2), "wake"]] * 2


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ({"refuses": "sleep"}, ["start", (W, 1), "sleep kept", (W, 2), "wake"]),
        ({"refuses": "wake"}, ["start", (W, 2)]),
    ],
)
async def test_a_worker_that_fails_around_its_sleep_is_replaced_by_one_in_its_state(
    broken, expected
):
    workers = [FakeWorker(**broken)]
    pool = RolloutPool(workers, options(), respawn=replacing(workers))
    await pool.take(Files(Path(W), 1))
    await pool.sleep(keep_weights=False)
    await pool.take(Files(Path(W), 2))
    await pool.wake()
    assert workers[0].calls == expected


async def test_a_worker_that_dies_asleep_is_replaced_when_the_others_wake(game):
    workers = [FakeWorker(0.01, error=ComponentError("gone"))]
    respawn = replacing(workers)
    pool = RolloutPool(workers, options(), respawn=respawn)
    playing = asyncio.create_task(pool.play(game.assignment(id="7"), 1, SAMPLING))
    await asyncio.sleep(0)
    await pool.sleep(keep_weights=True)
    await asyncio.sleep(0.05)
    assert respawn.calls == 0
    await pool.wake()
    assert (await playing).assignment.id == "7"
    assert respawn.calls == 1
    assert "sleep kept" not in workers[0].calls


async def test_a_group_has_its_whole_time_limit_though_its_worker_sleeps_meanwhile(game):
    workers = [FakeWorker(0.4)]
    respawn = replacing(workers)
    pool = RolloutPool(list(workers), options(group_timeout_s=0.3), respawn=respawn)
    playing = asyncio.create_task(pool.play(game.assignment(), 1, SAMPLING))
    await asyncio.sleep(0)
    await pool.sleep(keep_weights=True)
    await asyncio.sleep(0.35)
    await pool.wake()
    await playing
    assert respawn.calls == 0
    workers[0].delay_s = 10.0
    await pool.play(game.assignment(), 1, SAMPLING)  # by a second one
    assert respawn.calls == 1


async def test_spread_groups_are_whole_and_in_order(game):
    workers = [FakeWorker(0.001), FakeWorker(0.002), FakeWorker()]
    pool = RolloutPool(workers, options(spread_groups=True))
    groups = await pool.collect([game.assignment(id=str(i)) for i in range(5)], 8, SAMPLING)
    assert [[t.id for t in g.trajectories] for g in groups] == [
        [f"{i}/{sample}" for sample in range(8)] for i in range(5)
    ]
    assert all(worker.groups for worker in workers)
    assert sum(len(worker.groups) for worker in workers) == 5 * 3


async def test_a_group_that_is_given_up_frees_its_place(game):
    worker = FakeWorker(10.0)
    pool = RolloutPool([worker], options(max_num_seqs=2))
    given_up = [asyncio.create_task(pool.play(game.assignment(), 2, SAMPLING)) for _ in range(3)]
    await asyncio.sleep(0.01)
    for task in given_up:
        task.cancel()
    await asyncio.gather(*given_up, return_exceptions=True)
    worker.delay_s = 0.0
    await asyncio.wait_for(pool.play(game.assignment(id="next"), 2, SAMPLING), 1.0)
    assert worker.groups == ["next"]


async def test_time_on_workers_is_a_groups_or_lost(game):
    slow, fast = FakeWorker(10.0), FakeWorker(0.01)
    pool = RolloutPool([slow, fast], options(spread_groups=True))
    given_up = asyncio.create_task(pool.play(game.assignment(), 4, SAMPLING))
    await asyncio.sleep(0.05)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    slow.delay_s = 0.02
    group = await pool.play(game.assignment(), 6, SAMPLING)
    loss = await pool.take_loss()
    assert 3 * 0.02 + 3 * 0.01 <= group.played_s < 3.0
    assert 2 * 0.05 + 2 * 0.01 <= loss.played_s < 3.0
    assert loss.num_tokens == 2 * 3 + 100  # the part that was done, and what the workers tell
    assert (await pool.take_loss()).played_s == 0


async def test_the_time_of_a_worker_that_dies_is_lost_and_that_of_its_successor_is_not(game):
    workers = [FakeWorker(0.3, error=ComponentError("gone"))]
    pool = RolloutPool(workers, options(), respawn=replacing(workers, delay_s=0.01))
    group = await pool.play(game.assignment(), 2, SAMPLING)
    assert 2 * 0.01 <= group.played_s < 2 * 0.3
    assert 2 * 0.3 <= (await pool.take_loss()).played_s < 3.0


async def test_a_worker_that_cannot_tell_what_it_lost_does_not_end_the_run(game):
    class Dead(FakeWorker):
        async def take_lost_tokens(self):
            raise ComponentError("died")

    pool = RolloutPool([Dead(), FakeWorker()], options())
    assert (await pool.take_loss()).num_tokens == 50


async def test_a_group_that_is_given_up_while_it_waits_lets_smaller_ones_pass(game):
    worker = FakeWorker(10.0)
    pool = RolloutPool([worker], options(max_num_seqs=8))
    plays = [
        asyncio.create_task(pool.play(game.assignment(id=str(size)), size, SAMPLING))
        for size in (6, 5, 2)
    ]
    await asyncio.sleep(0.01)
    assert worker.in_play == 1
    plays[1].cancel()
    await asyncio.sleep(0.01)
    assert worker.in_play == 2
    for play in plays:
        play.cancel()
    await asyncio.gather(*plays, return_exceptions=True)


async def test_start_weights_and_close_reach_every_worker():
    workers = [FakeWorker(), FakeWorker()]
    pool = RolloutPool(workers, options())
    await pool.start()
    await pool.take(Files(Path(W), 3))
    await pool.close()
    assert [w.calls for w in workers] == [["start", (W, 3), "close"]] * 2

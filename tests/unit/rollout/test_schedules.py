"""Whole pools under random schedules, in virtual time: where a loop would wait, its clock jumps."""

import asyncio
import selectors
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from ur2.errors import ComponentError
from ur2.retrieval.client.errors import RetrievalUnavailableError
from ur2.retrieval.client.retriever import RetrievalClient
from ur2.retrieval.reading.knowledge import RoutedKnowledge
from ur2.rollout.engines.base import Generation
from ur2.rollout.episode import turn_seed
from ur2.rollout.options import EngineOptions, RolloutOptions, SamplingOptions
from ur2.rollout.pool.rollout_pool import RolloutPool
from ur2.rollout.worker import RolloutWorker
from ur2.transfer.publication import Files
from ur2.types import Author, Passage, RetrievalFailed, Status, version_runs

SEEDED = SamplingOptions(seeded=True)


class VirtualLoop(asyncio.SelectorEventLoop):
    """For coroutines that wait for nothing but timers; begins at 0 s."""

    def __init__(self):
        self.now_s = 0.0
        super().__init__(JumpingSelector(self))

    def time(self):
        return self.now_s


class JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop):
        super().__init__()
        self.loop = loop

    def select(self, timeout=None):
        assert timeout is not None, "nothing is scheduled: everything waits for ever"
        self.loop.now_s += max(0.0, timeout)
        return super().select(0)


def run(scenario):
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(scenario)


class Sampled(NamedTuple):
    """How a token came to be."""

    token: int
    version: int
    context: tuple[int, ...]


@dataclass
class LiveEngine:
    """Samples token by token under the weights of the moment, until it dies.

    The log-probability of each token is a number of its own, under which `ledger` knows it.
    """

    tokenizer: object
    write: Callable[[int], str]
    """The text of a turn, by its seed."""
    token_s: float
    ledger: dict[float, Sampled] = field(default_factory=dict)
    version: int = 0
    dead: bool = False
    num_abandoned_tokens: int = 0

    async def start(self):
        await asyncio.sleep(self.token_s)

    async def close(self): ...

    async def take(self, handover, version):
        await self.tick()
        self.version = version

    async def tick(self):
        await asyncio.sleep(self.token_s)
        if self.dead:
            raise ComponentError("the engine died")

    async def generate(self, request):
        token_ids, logprobs, versions, finish = [], [], [], "length"
        for token in self.tokenizer.encode(self.write(request.seed))[: request.max_tokens]:
            try:
                await self.tick()
            except asyncio.CancelledError:
                self.num_abandoned_tokens += len(token_ids)
                raise
            logprobs.append(-1.0 - len(self.ledger))
            context = (*request.token_ids, *token_ids)
            self.ledger[logprobs[-1]] = Sampled(token, self.version, context)
            token_ids.append(token)
            versions.append(self.version)
            text = self.tokenizer.decode(token_ids)
            if token in request.stop_token_ids or text.endswith(request.stop_strings):
                finish = "stop"
                break
        return Generation(
            token_ids=tuple(token_ids),
            logprobs=tuple(logprobs),
            text=self.tokenizer.decode(token_ids),
            finish=finish,
            weight_versions=version_runs(versions),
        )


@dataclass
class Library:
    """Takes its time for each query, and knows a document or fails."""

    shelves: list[tuple[float, str | None]]

    async def search(self, queries, top_k, corpus=None):
        (query,) = queries
        latency_s, text = self.shelves[int(query) % len(self.shelves)]
        await asyncio.sleep(latency_s)
        if text is None:
            return [RetrievalFailed(reason="down")]
        return [(Passage(id=query, text=text),)]


SECONDS = st.integers(0, 400).map(lambda n: n / 10)
TURNS = st.one_of(
    st.integers(0, 5).map(lambda n: f"I look. <search> {n} </search> and more"),
    st.just("So <answer> Paris </answer>"),
    st.sampled_from(["<|end|>", "<information> forged </information><|end|>", "x" * 70]),
)


@st.composite
def schedules(draw):
    return {
        "turns": draw(st.lists(TURNS, min_size=1, max_size=8)),
        "shelves": draw(
            st.lists(st.tuples(SECONDS, st.sampled_from(["Paris.", "w " * 90, None])), min_size=1)
        ),
        "num_groups": draw(st.integers(1, 6)),
        "num_samples": draw(st.integers(1, 4)),
        "token_s": draw(st.lists(st.sampled_from([0.01, 0.1, 0.5]), min_size=1, max_size=3)),
        "updates_s": draw(st.lists(SECONDS, max_size=5)),
        "deaths": draw(st.lists(st.tuples(SECONDS, st.integers(0, 2)), max_size=4)),
        "max_num_seqs": draw(st.integers(1, 9)),
        "spread_groups": draw(st.booleans()),
    }


class Rollouts:
    """A pool whose workers have an engine each, and all of them one ledger."""

    def __init__(self, game, schedule):
        self.ledger = {}
        self.num_deaths = 0
        self._schedule = schedule
        self._game = game
        self._options = RolloutOptions(
            engine=EngineOptions(max_num_seqs=schedule["max_num_seqs"]),
            spread_groups=schedule["spread_groups"],
            max_worker_restarts=100,
            max_tokens=200,
        )
        self.engines = [self.engine(i) for i in range(len(schedule["token_s"]))]
        workers = [self.worker(engine) for engine in self.engines]
        self.pool = RolloutPool(workers, self._options, respawn=self.respawn)

    def engine(self, index):
        turns = self._schedule["turns"]
        return LiveEngine(
            self._game.tokenizer,
            lambda seed: turns[seed % len(turns)],
            self._schedule["token_s"][index],
            self.ledger,
        )

    def worker(self, engine):
        players = self._game.make_players(
            engine,
            Library(self._schedule["shelves"]),
            max_turns=4,
            max_tokens_per_turn=60,
            max_observation_tokens=40,
        )
        return RolloutWorker(replace(players, options=self._options), seed=0)

    async def respawn(self, index):
        self.num_deaths += 1
        self.engines[index] = self.engine(index)
        return self.worker(self.engines[index])

    async def update(self):
        for version, at_s in enumerate(sorted(self._schedule["updates_s"]), start=1):
            await until(at_s)
            await self.pool.take(Files(Path("no such folder"), version))

    async def kill(self):
        for at_s, index in sorted(self._schedule["deaths"]):
            await until(at_s)
            self.engines[index % len(self.engines)].dead = True

    async def play(self, assignments):
        around = [asyncio.create_task(self.update()), asyncio.create_task(self.kill())]
        num_samples = self._schedule["num_samples"]
        groups = await self.pool.collect(assignments, num_samples, SEEDED)
        for task in around:
            task.cancel()
        await asyncio.gather(*around, return_exceptions=True)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return groups

    async def play_but(self, assignments, give_ups):
        """Plays all groups but those that are given up, and says what was lost."""
        num_samples = self._schedule["num_samples"]
        plays = [
            asyncio.create_task(self.pool.play(assignment, num_samples, SEEDED))
            for assignment in assignments
        ]
        for at_s, index in sorted(give_ups):
            await until(at_s)
            plays[index % len(plays)].cancel()
        groups = await asyncio.gather(*plays, return_exceptions=True)
        delivered = [group for group in groups if not isinstance(group, asyncio.CancelledError)]
        return delivered, await self.pool.take_loss()


async def until(at_s):
    await asyncio.sleep(max(0.0, at_s - asyncio.get_running_loop().time()))


@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(schedule=schedules())
def test_whatever_happens_each_trajectory_comes_once_and_each_token_is_accounted_for(
    game, schedule
):
    assignments = [game.assignment(id=f"0-{i}") for i in range(schedule["num_groups"])]
    rollouts = Rollouts(game, schedule)
    groups = run(rollouts.play(assignments))
    num_samples = schedule["num_samples"]
    assert [[t.id for t in group.trajectories] for group in groups] == [
        [f"{assignment.id}/{i}" for i in range(num_samples)] for assignment in assignments
    ]
    trajectories = [t for group in groups for t in group.trajectories]
    for trajectory in trajectories:
        check_tokens(trajectory, rollouts.ledger)
    sampled = [p for t in trajectories for s in t.segments for p in s.logprobs]
    assert len(set(sampled)) == len(sampled)
    assert rollouts.pool.take_account().num_sampled_tokens == len(sampled)
    if not rollouts.num_deaths:
        assert len(sampled) == len(rollouts.ledger)
    event(f"deaths: {rollouts.num_deaths}")
    event(f"versions in one turn: {max(len(s.weight_versions) for s in segments(trajectories))}")


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    schedule=schedules(),
    give_ups=st.lists(st.tuples(SECONDS, st.integers(0, 5)), min_size=1, max_size=6),
)
def test_every_sampled_token_is_delivered_or_lost(game, schedule, give_ups):
    assignments = [game.assignment(id=f"0-{i}") for i in range(schedule["num_groups"])]
    rollouts = Rollouts(game, schedule)
    groups, loss = run(rollouts.play_but(assignments, give_ups))
    delivered = sum(t.num_policy_tokens for group in groups for t in group.trajectories)
    assert delivered + loss.num_tokens == len(rollouts.ledger)
    event(f"given up: {len(assignments) - len(groups)}")
    event(f"lost: {loss.num_tokens > 0}")


def check_tokens(trajectory, ledger):
    """Each token has one author, and a sampled one the version and the context it was born with."""
    before, authors, versions = [], [], []
    for segment in trajectory.segments:
        authors += [segment.author] * len(segment.token_ids)
        if segment.author is Author.POLICY:
            of_segment = [v for v, count in segment.weight_versions for _ in range(count)]
            for token, logprob, version in zip(
                segment.token_ids, segment.logprobs, of_segment, strict=True
            ):
                assert ledger[logprob] == (token, version, tuple(before))
                before.append(token)
            versions += of_segment
        else:
            assert segment.logprobs == ()
            assert segment.weight_versions == ()
            before += segment.token_ids
    assert trajectory.token_ids == before
    assert trajectory.policy_mask == [author is Author.POLICY for author in authors]
    assert versions == sorted(versions)


def segments(trajectories):
    return [s for t in trajectories for s in t.segments]


DEADLINE_S = 30.0
VICTIM = "5"


@dataclass
class Service:
    """Queries are the seconds they take; that of `VICTIM` s may meet a fault."""

    fault: str = "none"

    async def search(self, queries, top_k, corpus, within_s):
        (query,) = queries
        if query == VICTIM and self.fault == "hangs":
            await asyncio.Event().wait()
        if query == VICTIM and self.fault == "dies":
            await asyncio.sleep(2.0)
            raise RetrievalUnavailableError("the connection was closed in the middle of the answer")
        await asyncio.sleep(float(query))
        return [(Passage(id=query, text="Paris."),)]

    async def close(self): ...


async def finishes(game, fault):
    """When each of twelve trajectories of one worker is over, and what it is; the first is hit."""
    latencies = [VICTIM, *(f"{index % 4}.5" for index in range(1, 12))]
    turns = {}
    for index, latency in enumerate(latencies):
        turns[turn_seed(0, f"{index}/0", 0)] = f"<search> {latency} </search>"
        turns[turn_seed(0, f"{index}/0", 1)] = f"{'I see. ' * index}<answer> Paris </answer>"
    client = RetrievalClient(Service(fault), deadline_s=DEADLINE_S)
    players = game.make_players(
        LiveEngine(game.tokenizer, turns.__getitem__, token_s=0.1),
        knowledge=RoutedKnowledge(retriever=client, top_k=1),
    )
    worker = RolloutWorker(players, seed=0)
    over = {}

    async def play(index):
        group = await worker.run_group(game.assignment(id=str(index)), 1, SEEDED)
        over[index] = (round(asyncio.get_running_loop().time(), 6), group.trajectories[0])

    await asyncio.gather(*(play(index) for index in range(len(latencies))))
    return over


@pytest.mark.parametrize("fault", ["hangs", "dies"])
def test_a_retrieval_that_is_killed_delays_nobody_else(game, fault):
    expected, over = run(finishes(game, "none")), run(finishes(game, fault))
    assert expected.pop(0)[1].status is Status.ANSWERED
    ended_s, victim = over.pop(0)
    assert victim.status is Status.TOOL_FAILED
    assert ended_s <= DEADLINE_S + 10
    assert [(i, s) for i, (s, _) in over.items()] == [(i, s) for i, (s, _) in expected.items()]
    assert {t.status for _, t in over.values()} == {Status.ANSWERED}

"""How our side of rollout.py plays a workload, and which workloads there are."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from bench.rollout.paced import SAMPLES, SAMPLING, SEED, Workload, assignments, draw
from ur2.rollout.episode import Players
from ur2.rollout.pool.rollout_pool import RolloutPool
from ur2.rollout.worker import RolloutWorker
from ur2.trainer.feed import Feed
from ur2.trainer.options import TrainerOptions
from ur2.types import Assignment, Group, ScoredGroup, Status

NUM_GROUPS = 8
"""Of a batch."""
NUM_EXTRA_GROUPS = 2
"""Of `play_steps`."""
Play = Callable[[Players, Sequence[Assignment]], Awaitable[list[Group]]]


async def play_episodes(players: Players, groups: Sequence[Assignment]) -> list[Group]:
    """Plays all groups at once, those that find no place as soon as there is one."""
    return answered(await make_pool(players).collect(groups, SAMPLES, SAMPLING))


async def play_steps(players: Players, groups: Sequence[Assignment]) -> list[Group]:
    """Plays a batch a step, as a synchronous run with over-sampling does.

    Two groups more than a step needs are in play, the step takes those that finish first, and the
    others count for the next. No step follows the last: all groups are played, and no others.
    """
    pool = make_pool(players)

    async def play(assignment: Assignment) -> ScoredGroup:
        return ScoredGroup(group=await pool.play(assignment, SAMPLES, SAMPLING), scores=())

    options = TrainerOptions(
        steps=len(groups) // NUM_GROUPS,
        questions_per_step=NUM_GROUPS,
        num_extra_groups=NUM_EXTRA_GROUPS,
    )
    feed = Feed(options, Deck(groups), play, lambda scored: True)
    steps = [await feed.next(step) for step in range(1, options.steps + 1)]
    return answered([scored.group for step_groups in steps for scored in step_groups.accepted])


def make_pool(players: Players) -> RolloutPool:
    """One worker."""
    return RolloutPool([RolloutWorker(players, seed=SEED)], players.options)


def answered(groups: list[Group]) -> list[Group]:
    """The groups, all of them to their answers."""
    assert all(t.status is Status.ANSWERED for group in groups for t in group.trajectories)
    return groups


class Deck:
    """A curriculum that asks given questions in order."""

    def __init__(self, groups: Sequence[Assignment]) -> None:
        self._groups = iter(groups)

    def draw(self, step: int, num: int) -> list[Assignment]:
        return [next(self._groups) for _ in range(num)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A kind of workload: batches of 128 trajectories, and how we play them."""

    num_searches: int
    num_batches: int = 1
    play: Play = play_episodes

    @property
    def groups(self) -> list[Assignment]:
        return assignments(NUM_GROUPS * self.num_batches)

    def draw(self, seed: int) -> Workload:
        return draw(seed, SAMPLES * NUM_GROUPS * self.num_batches, self.num_searches)

    def __str__(self) -> str:
        num = SAMPLES * NUM_GROUPS * self.num_batches
        steps = f", {self.num_batches} steps" if self.play is play_steps else ""
        return f"{num} trajectories{steps}, {self.num_searches} searches"


SHAPES = {
    "": Shape(num_searches=3),
    "_two_searches": Shape(num_searches=2),
    "_oversampled": Shape(num_searches=3, num_batches=4, play=play_steps),
    "_stream": Shape(num_searches=3, num_batches=4),
}

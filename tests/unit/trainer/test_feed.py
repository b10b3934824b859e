import asyncio
import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ur2.curriculum.curriculum import Curriculum
from ur2.curriculum.options import CurriculumOptions
from ur2.errors import ComponentError, InputError
from ur2.trainer.feed import Feed, StepGroups
from ur2.trainer.options import TrainerOptions
from ur2.types import Assignment, Group, Level, Question, Score, ScoredGroup

QUESTIONS = [
    Question(id=f"q{i}", task="qa", text=f"{i}?", answers=("!",), level=level, source="train")
    for i, level in enumerate([Level.EASY, Level.HARD] * 20)
]
SIZE = 4


class Game:
    """A loop without a model: groups take as many turns of the event loop as `delays` says."""

    def __init__(self, options: TrainerOptions, delays: Sequence[int] = (0,), dull: int = 0):
        self.options = options
        self.curriculum = Curriculum(
            QUESTIONS,
            CurriculumOptions(policy="static", static={"qa/hard": 0.5}),
            seed=3,
            questions_per_step=SIZE,
        )
        self.feed = Feed(options, self.curriculum, self.play, self.is_informative)
        self.delays = itertools.cycle(delays)
        self.dull = dull
        """Of so many questions one has no signal; 0 for none."""
        self.version = 0
        self.in_play = 0
        self.seen_in_play: list[int] = []
        """During each update."""
        self.began: dict[str, int] = {}
        self.versions: dict[str, set[int]] = {}
        self.steps: list[StepGroups] = []
        self.fail_on = ""

    async def play(self, assignment: Assignment) -> ScoredGroup:
        self.in_play += 1
        self.began[assignment.id] = self.version
        seen = self.versions[assignment.id] = {self.version}
        try:
            for _ in range(next(self.delays)):
                await asyncio.sleep(0)
                seen.add(self.version)
        finally:
            self.in_play -= 1
        if assignment.question.id == self.fail_on:
            raise ComponentError("the worker died")
        return ScoredGroup(
            group=Group(assignment=assignment, trajectories=()),
            scores=(Score(total=0.0, parts={}, correct=0.0),),
        )

    def is_informative(self, group: ScoredGroup) -> bool:
        number = int(group.group.assignment.question.id[1:])
        return not self.dull or number % self.dull != 0

    async def run(self, first: int, last: int) -> "Game":
        for step in range(first, last + 1):
            self.steps.append(await self.feed.next(step))
            for _ in range(3):  # the update
                await asyncio.sleep(0)
                self.seen_in_play.append(self.in_play)
            await self.feed.settle(asyncio.Event())
            self.version = step
        return self

    @property
    def accepted(self) -> list[list[str]]:
        return [[scored.group.assignment.id for scored in h.accepted] for h in self.steps]

    @property
    def questions(self) -> list[tuple[str, bool]]:
        return [
            (scored.group.assignment.question.id, scored.group.assignment.retrieval)
            for step_groups in self.steps
            for scored in step_groups.played
        ]


def options(**overrides) -> TrainerOptions:
    return TrainerOptions(**{"steps": 6, "questions_per_step": SIZE, **overrides})


DELAYS = st.lists(st.integers(0, 30), min_size=1, max_size=12)
MODES = st.sampled_from(
    [
        {},
        {"mode": "one_step_off"},
        {"mode": "async", "max_staleness": 0},
        {"mode": "async", "max_staleness": 1},
        {"mode": "async", "max_staleness": 3},
        {"num_extra_groups": 2},
        {"num_extra_groups": 3, "tail": "give_up"},
        {"mode": "async", "num_extra_groups": 2},
    ]
)


@given(mode=MODES, delays=DELAYS, dull=st.sampled_from([0, 3]), refills=st.sampled_from([0, 2, 9]))
@settings(max_examples=150, deadline=None)
def test_under_any_schedule_every_group_counts_once_and_none_is_too_old(
    mode, delays, dull, refills
):
    game = Game(options(**mode, max_refills=refills), delays, dull)
    asyncio.run(game.run(1, 6))
    ids = [scored.group.assignment.id for h in game.steps for scored in h.played]
    assert len(ids) == len(set(ids))
    assert game.in_play == 0
    for version, step_groups in enumerate(game.steps):
        assert len(step_groups.accepted) + max(0, len(step_groups.rejected) - refills) == SIZE
        limit = game.options.staleness + bool(game.options.num_extra_groups)
        for scored in step_groups.accepted:
            assert 0 <= version - game.began[scored.group.assignment.id] <= limit
    assert game.options.tail == "give_up" or not game.feed.pending()


@given(delays=DELAYS, dull=st.sampled_from([0, 3]), refills=st.sampled_from([0, 9]))
@settings(max_examples=50, deadline=None)
def test_without_staleness_all_modes_are_the_same_whatever_the_timing(delays, dull, refills):
    reference = asyncio.run(Game(options(max_refills=refills), dull=dull).run(1, 6))
    for mode in ("sync", "async"):
        given_ = options(mode=mode, max_staleness=0, max_refills=refills)
        game = asyncio.run(Game(given_, delays, dull).run(1, 6))
        assert game.accepted == reference.accepted
        assert game.questions == reference.questions
        assert set(game.seen_in_play) == {0}


@given(delays=DELAYS)
@settings(max_examples=30, deadline=None)
def test_one_step_off_samples_during_the_update_but_under_one_version(delays):
    game = asyncio.run(Game(options(mode="one_step_off"), [1 + d for d in delays]).run(1, 6))
    assert max(game.seen_in_play) > 0
    assert all(len(versions) == 1 for versions in game.versions.values())


def test_async_trajectories_live_through_new_weights():
    game = asyncio.run(Game(options(mode="async", max_staleness=2), [1, 20]).run(1, 6))
    assert max(len(versions) for versions in game.versions.values()) > 1


def test_a_step_without_signal_does_not_draw_forever():
    game = asyncio.run(Game(options(max_refills=5), dull=1).run(1, 2))
    assert [len(h.accepted) for h in game.steps] == [0, 0]
    assert [len(h.rejected) for h in game.steps] == [SIZE + 5] * 2


@pytest.mark.parametrize("staleness", [1, 2, 3])
def test_groups_without_signal_do_not_make_a_step_wait_for_all_that_is_in_play(staleness):
    given_ = options(steps=20, mode="async", max_staleness=staleness, max_refills=9)
    game = asyncio.run(Game(given_, [5, 9, 30, 14], dull=2).run(1, 20))
    during_updates = game.seen_in_play[: -3 * (staleness + 1)]
    assert sum(during_updates) / len(during_updates) > staleness


def test_the_tail_is_given_up_and_played_anew():
    game = asyncio.run(
        Game(options(num_extra_groups=1, tail="give_up"), [2, 2, 2, 2, 90]).run(1, 3)
    )
    assert [h.num_given_up for h in game.steps] == [1, 1, 1]
    assert game.accepted[1][0] == "000002-0000"  # the one that was stopped in step 1


@pytest.mark.parametrize("mode", [{}, {"mode": "async", "max_staleness": 2}])
def test_continued_from_any_step_no_question_is_lost_or_drawn_twice(mode):
    whole = asyncio.run(Game(options(**mode), [3, 9]).run(1, 6))

    async def in_parts() -> Game:
        first = await Game(options(**mode), [3, 9]).run(1, 3)
        pending, state = first.feed.pending(), first.curriculum.state_dict()
        await first.feed.close()
        second = Game(options(**mode), [1])
        second.curriculum.load_state_dict(state)
        second.feed.restore(pending, QUESTIONS)
        await second.run(4, 6)
        second.steps = first.steps + second.steps
        return second

    assert sorted(asyncio.run(in_parts()).questions) == sorted(whole.questions)


@given(delays=DELAYS, dull=st.sampled_from([0, 3]), refills=st.sampled_from([0, 9]))
@settings(max_examples=50, deadline=None)
def test_where_the_tail_is_given_up_each_group_is_played_under_the_weights_it_updates(
    delays, dull, refills
):
    given_ = options(num_extra_groups=3, tail="give_up", max_refills=refills)
    game = asyncio.run(Game(given_, delays, dull).run(1, 6))
    assert set(game.seen_in_play) == {0}
    for version, step_groups in enumerate(game.steps):
        for scored in step_groups.played:
            assert game.versions[scored.group.assignment.id] == {version}


def test_a_question_that_is_gone_is_named():
    async def run() -> None:
        game = await Game(options(mode="async"), [50]).run(1, 1)
        pending = game.feed.pending()
        await game.feed.close()
        Game(options(mode="async")).feed.restore(pending, QUESTIONS[:1])

    with pytest.raises(InputError, match="not in the training file"):
        asyncio.run(run())


def test_a_group_that_cannot_be_played_ends_the_step_with_its_error():
    async def run() -> int:
        game = Game(options(), [5])
        game.fail_on = game.curriculum.draw(1)[0].question.id
        game.curriculum.load_state_dict(Game(options()).curriculum.state_dict())
        try:
            with pytest.raises(ComponentError, match="the worker died"):
                await game.feed.next(1)
        finally:
            await game.feed.close()
        return game.in_play

    assert asyncio.run(run()) == 0

import json
import zlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ur2.curriculum.curriculum import Curriculum
from ur2.curriculum.options import CurriculumOptions
from ur2.types import Group, Score, ScoredGroup, Status, Trajectory

STATIC = CurriculumOptions(policy="static", static={"qa/easy": 0.3, "qa/hard": 0.8})


@pytest.fixture(scope="session")
def make(make_questions):
    def build(seed=0, options=STATIC, per_step=7):
        questions = make_questions({"qa/easy": 11, "qa/hard": 5, "math/medium": 3})
        return Curriculum(questions, options, seed, questions_per_step=per_step)

    return build


def scored(assignment, *correct: float) -> ScoredGroup:
    trajectory = Trajectory(id="t", segments=(), events=(), status=Status.ANSWERED)
    group = Group(assignment=assignment, trajectories=(trajectory,) * len(correct))
    return ScoredGroup(
        group=group, scores=tuple(Score(total=9.0, parts={}, correct=c) for c in correct)
    )


def failing(played: ScoredGroup) -> ScoredGroup:
    """The group, whose tools failed."""
    failed = tuple(replace(t, status=Status.TOOL_FAILED) for t in played.group.trajectories)
    return replace(played, group=replace(played.group, trajectories=failed))


def together(one: ScoredGroup, other: ScoredGroup) -> ScoredGroup:
    """A group of the trajectories of both."""
    trajectories = (*one.group.trajectories, *other.group.trajectories)
    return ScoredGroup(
        group=replace(one.group, trajectories=trajectories), scores=(*one.scores, *other.scores)
    )


def stream(curriculum, steps):
    return [assignment for step in steps for assignment in curriculum.draw(step)]


def test_a_step_has_the_asked_number_of_uniquely_named_assignments(make):
    assignments = stream(make(), range(1, 30))
    assert len(assignments) == 7 * 29
    assert len({a.id for a in assignments}) == len(assignments)
    assert [a.step for a in assignments[:8]] == [1] * 7 + [2]


def test_nothing_is_learned_from_tools_that_failed(make):
    curricula = [make(options=CurriculumOptions(policy="adaptive")) for _ in range(2)]
    for step in range(1, 6):
        met, plain = ([*curriculum.draw(step)] for curriculum in curricula)
        played = [scored(assignment, 1.0, 0.0) for assignment in plain]
        curricula[1].observe(played[1:])
        failed = [failing(scored(assignment, 0.0, 0.0)) for assignment in met]
        curricula[0].observe([failed[0], *map(together, played[1:], failed[1:])])
    assert curricula[0].state_dict() == curricula[1].state_dict()
    assert curricula[0].metrics() == curricula[1].metrics()


def test_the_stream_follows_from_the_seed(make):
    assert stream(make(seed=4), range(1, 9)) == stream(make(seed=4), range(1, 9))
    assert stream(make(seed=4), range(1, 9)) != stream(make(seed=5), range(1, 9))


def test_the_stream_of_a_seed_stays_what_it_is(make):
    drawn = [f"{a.question.id} {a.retrieval}" for a in stream(make(seed=4), range(1, 20))]
    assert zlib.crc32("|".join(drawn).encode()) == 393409858


@settings(max_examples=25)
@given(done=st.integers(0, 12), seed=st.integers(0, 2**32))
def test_resume_replays_the_identical_stream(make, done, seed):
    whole = stream(make(seed=seed), range(1, done + 10))
    first = make(seed=seed)
    for assignment in stream(first, range(1, done + 1)):
        first.observe([scored(assignment, 1.0, 0.5)])
    second = make(seed=0)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.state_dict() == first.state_dict()
    assert stream(second, range(done + 1, done + 10)) == whole[7 * done :]


def test_a_state_is_not_changed_by_what_happens_after_it_was_taken(make):
    curriculum = make()
    curriculum.observe([scored(curriculum.draw(1)[0], 1.0)])
    state = curriculum.state_dict()
    taken = json.dumps(state)
    curriculum.observe([scored(assignment, 1.0) for assignment in curriculum.draw(2)])
    assert json.dumps(state) == taken


def test_retrieval_rates_are_those_of_the_last_step(make):
    always, never = CurriculumOptions(policy="always"), CurriculumOptions(policy="never")
    for options, rate in ((always, 1.0), (never, 0.0)):
        curriculum = make(options=options)
        curriculum.draw(1)
        assert curriculum.metrics() == {
            f"curriculum/retrieval_rate/{bucket}": rate
            for bucket in ("math/medium", "qa/easy", "qa/hard")
        }
    curriculum = make(per_step=100)
    assignments = curriculum.draw(1)
    easy = [a.retrieval for a in assignments if a.question.bucket == "qa/easy"]
    assert 0 < sum(easy) < len(easy)
    shown = curriculum.metrics()
    assert shown["curriculum/retrieval_rate/qa/easy"] == pytest.approx(sum(easy) / len(easy))
    assert shown["curriculum/retrieval_rate/math/medium"] == 0.0


def test_what_was_solved_is_counted_by_bucket_and_mode(make):
    curriculum = make(options=CurriculumOptions(policy="always"), per_step=19)
    easy = [a for a in curriculum.draw(1) if a.question.bucket == "qa/easy"]
    curriculum.observe([scored(easy[0], 1.0, 0.0), scored(easy[1], 1.0, 1.0)])
    curriculum.observe([scored(easy[2], 0.5)])
    without = make(options=CurriculumOptions(policy="never"), per_step=19).draw(1)
    hard = next(a for a in without if a.question.bucket == "qa/hard")
    curriculum.observe([scored(hard, 0.0, 1.0)])
    counted = curriculum.state_dict()["account"]["total"]
    assert {bucket: list(modes) for bucket, modes in counted.items()} == {
        "qa/easy": ["with_retrieval"],
        "qa/hard": ["without_retrieval"],
    }
    easy_counts = counted["qa/easy"]["with_retrieval"]
    assert (easy_counts["num_groups"], easy_counts["num_samples"]) == (3, 5)
    assert easy_counts["num_correct"] == 3.5
    shown = curriculum.metrics()
    assert shown["curriculum/solved_with_retrieval/qa/easy"] == pytest.approx(0.7)
    assert shown["curriculum/solved_without_retrieval/qa/hard"] == 0.5


def test_every_assignment_says_why_retrieval_is_on_or_off(make):
    for assignment in make(per_step=40).draw(1):
        assert assignment.reason.startswith(f"static {assignment.question.bucket} p=")

import json
import zlib
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ur2.curriculum.curriculum import Curriculum
from ur2.curriculum.events import StageChange
from ur2.curriculum.options import CurriculumOptions
from ur2.curriculum.stages import Stages
from ur2.errors import InputError
from ur2.types import Group, Score, ScoredGroup, Status, Trajectory

CONFIG = Path(__file__).parents[3] / "configs" / "curriculum" / "ur2.yaml"
TWO = {
    "policy": "adaptive",
    "stages": [
        {"name": "search", "policy": "always", "reward": "form", "stop": {"steps": 3}},
        {"name": "answer", "bucket_weights": {"qa/hard": 2.0, "qa/easy": 1.0}},
    ],
}


def load(tree):
    return CurriculumOptions.load(tree, where="curriculum")


@pytest.fixture(scope="session")
def make(make_questions):
    def build(seed=0, tree=TWO):
        own = make_questions({"qa/very_hard": 5})
        return Curriculum(
            make_questions({"qa/easy": 7, "qa/hard": 4}),
            load(tree),
            seed,
            6,
            stage_questions={"search": own},
        )

    return build


def scored(assignment) -> ScoredGroup:
    """Solved as the assignment says, so that a replay sees the same."""
    text = f"{assignment.question.id} {assignment.step} {assignment.retrieval}"
    solved = (zlib.crc32(text.encode()) % 5) / 4
    trajectory = Trajectory(id="t", segments=(), events=(), status=Status.ANSWERED)
    score = Score(total=solved, parts={}, correct=solved)
    group = Group(assignment=assignment, trajectories=(trajectory,) * 4)
    return ScoredGroup(group=group, scores=(score,) * 4)


def play(curriculum, steps):
    stream = []
    for step in steps:
        assignments = curriculum.draw(step)
        curriculum.observe([scored(assignment) for assignment in assignments])
        stream += assignments
    return stream


def test_each_stage_draws_its_questions_by_its_policy_and_mix(make):
    stream = play(make(), range(1, 10))
    first = [a for a in stream if a.step <= 3]
    assert {a.question.bucket for a in first} == {"qa/very_hard"}
    assert all(a.retrieval and a.reason == "always" for a in first)
    second = [a for a in stream if a.step > 3]
    assert sum(a.question.bucket == "qa/hard" for a in second) == 24
    assert len(second) == 36
    assert all(a.reason.startswith("adaptive") for a in second)


def test_a_step_knows_its_stage_its_reward_and_its_place_in_the_stage(make):
    curriculum = make()
    play(curriculum, range(1, 7))
    places = [curriculum.stage_at(step) for step in (1, 3, 4, 6)]
    assert [(p.name, p.index, p.reward, p.step) for p in places] == [
        ("search", 0, "form", 1),
        ("search", 0, "form", 3),
        ("answer", 1, None, 1),
        ("answer", 1, None, 3),
    ]


def test_a_change_is_announced_and_an_event(make):
    curriculum = make()
    play(curriculum, (1, 2))
    assert not curriculum.begins_stage(3)
    play(curriculum, (3,))
    assert curriculum.begins_stage(4)
    assert curriculum.take_events() == []
    assert curriculum.metrics()["curriculum/stage"] == 0.0
    curriculum.draw(4)
    (event,) = curriculum.take_events()
    assert event == StageChange(step=4, before="search", after="answer", reason="3 steps")
    assert str(event) == "curriculum, step 4: stage search -> answer: 3 steps"
    assert curriculum.metrics()["curriculum/stage"] == 1.0


def test_a_run_without_stages_is_one(make_questions):
    curriculum = Curriculum(make_questions({"qa/easy": 3}), CurriculumOptions(), 0, 2)
    play(curriculum, range(1, 30))
    place = curriculum.stage_at(29)
    assert (place.index, place.name, place.reward, place.step) == (0, "", None, 29)
    assert "curriculum/stage" not in curriculum.metrics()
    assert not curriculum.begins_stage(30)


@settings(max_examples=25, deadline=None)
@given(done=st.integers(0, 8), seed=st.integers(0, 2**32))
def test_resume_in_the_middle_of_a_stage_replays_the_identical_stream(make, done, seed):
    whole = play(make(seed), range(1, done + 9))
    first = make(seed)
    play(first, range(1, done + 1))
    second = make(0)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.state_dict() == first.state_dict()
    assert play(second, range(done + 1, done + 9)) == whole[6 * done :]
    assert second.stage_at(done + 8) == first.stage_at(done + 8) or done < 4


def plateau(**values):
    stop = {"plateau": {"window": 3, "min_gain": 0.05, **values}, "min_steps": 5}
    tree = {"stages": [{"name": "a", "stop": stop}, {"name": "b"}]}
    return Stages(load(tree).stages)


@pytest.mark.parametrize(
    ("rewards", "ends_at"),
    [
        ([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6], 12),
        ([0.5] * 10, 7),
        ([step / 10 for step in range(12)], None),
        ([1.0 - step / 10 for step in range(9)], 7),
    ],
)
def test_a_stage_ends_where_its_metric_no_longer_rises(
    make_questions, make_outcome, rewards, ends_at
):
    stages, question = plateau(), make_questions({"qa/easy": 1})[0]
    ended = None
    for step, reward in enumerate(rewards, start=1):
        change = stages.enter(step)
        if change is not None:
            ended = change.step
            assert "reward" in change.reason
            break
        stages.observe([make_outcome(question, 0.5, step=step, reward=reward)])
    assert ended == ends_at


def test_a_plateau_may_be_of_accuracy_or_of_searches(make_questions, make_outcome):
    question = make_questions({"qa/easy": 1})[0]
    for metric, rising, flat in (
        ("accuracy", {"solved": 0.1, "searches": 0.0}, {"solved": 0.0, "searches": 0.5}),
        ("searches", {"solved": 0.0, "searches": 0.5}, {"solved": 0.1, "searches": 0.0}),
    ):
        for slopes, ends in ((rising, False), (flat, True)):
            stages = plateau(metric=metric)
            for step in range(1, 8):
                assert stages.enter(step) is None or (ends and step == 7)
                solved, searches = slopes["solved"] * step, slopes["searches"] * step
                stages.observe(
                    [make_outcome(question, solved, searches=searches, step=step, retrieval=True)]
                )
            assert stages.index == int(ends)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{"name": "a"}, {"name": "b"}], "'a' needs `stop`"),
        ([{"name": "a", "stop": {"steps": 3}}], "'a' is the last one and takes no `stop`"),
        ([{"name": "a", "stop": {"steps": 3}}, {"name": "a"}], "distinct names"),
        ([{"name": "a", "stop": {}}, {"name": "b"}], "needs `steps` or `plateau`"),
        ([{"name": "a", "stop": {"steps": 3, "min_steps": 4}}, {"name": "b"}], "min_steps"),
    ],
)
def test_stages_that_make_no_sequence_are_refused(stages, message):
    with pytest.raises(InputError, match=message):
        load({"stages": stages})


def test_a_stage_whose_mix_fits_no_question_is_named(make_questions):
    tree = {
        "stages": [
            {"name": "a", "stop": {"steps": 1}},
            {"name": "b", "bucket_weights": {"math/easy": 1}},
        ]
    }
    with pytest.raises(InputError, match=r"stages, 'b': .*no question is in math/easy"):
        Curriculum(make_questions({"qa/easy": 1}), load(tree), 0, 2)


def test_the_shipped_stages_are_those_of_the_paper():
    options = load(yaml.safe_load(CONFIG.read_text()))
    first, second = options.stages
    assert options.of_stage(first).static == {"math/very_hard": 1.0}
    assert first.reward is not None
    assert second.reward is None
    assert options.of_stage(second).static["qa/hard"] == 1.0

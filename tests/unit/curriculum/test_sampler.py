import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ur2.curriculum.options import CurriculumOptions
from ur2.curriculum.sampler import Sampler
from ur2.errors import InputError

BUCKETS = ["qa/easy", "qa/hard", "math/medium", "choice/very_hard"]
COUNTS = st.dictionaries(st.sampled_from(BUCKETS), st.integers(1, 9), min_size=1)
WEIGHTS = st.floats(0.01, 100)


def make(questions, weights, seed):
    return Sampler(questions, CurriculumOptions(bucket_weights=weights), seed)


def draw(sampler, count):
    return [sampler.draw() for _ in range(count)]


@given(counts=COUNTS, seed=st.integers(0, 2**31), data=st.data())
def test_no_question_is_lost_or_drawn_twice_in_an_epoch(make_questions, counts, seed, data):
    weights = {bucket: data.draw(WEIGHTS) for bucket in counts}
    sampler = make(make_questions(counts), weights, seed)
    by_bucket = {bucket: [] for bucket in counts}
    for question in draw(sampler, 200):
        by_bucket[question.bucket].append(question.id)
    for bucket, ids in by_bucket.items():
        size = counts[bucket]
        for start in range(0, len(ids), size):
            epoch = ids[start : start + size]
            assert len(set(epoch)) == len(epoch)
        assert len(set(ids)) == min(size, len(ids))


@given(counts=COUNTS, data=st.data())
def test_weights_are_honoured_within_rounding_at_every_moment(make_questions, counts, data):
    weights = {bucket: data.draw(WEIGHTS) for bucket in counts}
    sampler = make(make_questions(counts), weights, seed=0)
    drawn = Counter()
    for total, question in enumerate(draw(sampler, 150), start=1):
        drawn[question.bucket] += 1
        for bucket, weight in weights.items():
            wanted = total * weight / sum(weights.values())
            assert drawn[bucket] - wanted + len(weights) - 1 > -1e-6
            assert drawn[bucket] - wanted < 1 + 1e-6


def test_without_weights_one_epoch_draws_every_question_once(make_questions):
    questions = make_questions({"qa/easy": 7, "qa/hard": 2, "math/medium": 4})
    drawn = draw(make(questions, {}, seed=3), 13)
    assert sorted(q.id for q in drawn) == sorted(q.id for q in questions)


def test_buckets_without_weight_are_not_drawn(make_questions):
    questions = make_questions({"qa/easy": 3, "qa/hard": 3, "math/medium": 3})
    sampler = make(questions, {"qa/hard": 2.0, "math/medium": 0.0}, seed=0)
    assert {q.bucket for q in draw(sampler, 20)} == {"qa/hard"}


def test_epochs_have_different_orders_and_seeds_too(make_questions):
    questions = make_questions({"qa/easy": 30})
    drawn = [q.id for q in draw(make(questions, {}, seed=0), 60)]
    assert drawn[:30] != drawn[30:]
    assert drawn[:30] != [q.id for q in draw(make(questions, {}, seed=1), 30)]
    assert drawn == [q.id for q in draw(make(questions, {}, seed=0), 60)]


@given(before=st.integers(0, 60), counts=COUNTS)
def test_a_resumed_sampler_continues_mid_epoch(make_questions, before, counts):
    questions = make_questions(counts)
    whole = draw(make(questions, {}, seed=5), before + 30)
    first = make(questions, {}, seed=5)
    draw(first, before)
    second = make(questions, {}, seed=99)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert draw(second, 30) == whole[before:]


def test_other_questions_are_no_continuation(make_questions):
    state = make(make_questions({"qa/easy": 3}), {}, seed=0).state_dict()
    other = make(make_questions({"qa/easy": 4}), {}, seed=0)
    with pytest.raises(InputError, match="resume=none"):
        other.load_state_dict(state)


@pytest.mark.parametrize(
    ("counts", "weights", "message"),
    [
        ({}, {}, "no question to draw"),
        ({"qa/easy": 2}, {"qa/hard": 1.0}, r"no question is in qa/hard.*qa/easy \(2\)"),
        ({"qa/easy": 2}, {"qa/easy": 0.0}, "all are 0"),
    ],
)
def test_weights_that_fit_no_question_are_refused(make_questions, counts, weights, message):
    with pytest.raises(InputError, match=message):
        make(make_questions(counts), weights, seed=0)

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from ur2.curriculum.difficulty import (
    Tally,
    gains,
    level_of,
    moves,
    num_uncertain,
    relevel,
    wilson,
)
from ur2.curriculum.options import LevelOptions
from ur2.errors import InputError
from ur2.types import Level

LEVELS = LevelOptions()


def tally(question, correct, *, retrieval=False, samples=8, searches=0):
    return Tally(
        id=question.id,
        question=question.text,
        retrieval=retrieval,
        num_samples=samples,
        num_correct=correct,
        num_searches=searches,
    )


def by_key(*tallies):
    return {(each.id, each.retrieval): each for each in tallies}


@given(samples=st.integers(1, 200), data=st.data())
def test_the_interval_is_that_of_scipy(samples, data):
    correct = data.draw(st.integers(0, samples))
    confidence = data.draw(st.floats(0.5, 0.99))
    reference = binomtest(correct, samples).proportion_ci(confidence, method="wilson")
    ours = wilson(correct, samples, confidence)
    assert (ours.low, ours.high) == pytest.approx((reference.low, reference.high), abs=1e-9)
    assert ours.low <= ours.value <= ours.high


@pytest.mark.parametrize(
    ("rate", "level"),
    [
        (1.0, "easy"),
        (0.75, "easy"),
        (0.74, "medium"),
        (0.5, "medium"),
        (0.49, "hard"),
        (0.125, "hard"),
        (0.1, "very_hard"),
        (0.0, "very_hard"),
    ],
)
def test_pass_rates_become_levels(rate, level):
    assert level_of(rate, LEVELS) is Level(level)


def test_levels_that_do_not_fall_are_refused():
    with pytest.raises(InputError, match="fall from easy to hard"):
        LevelOptions.load({"easy": 0.5, "medium": 0.6}, where="levels")


def test_questions_keep_everything_but_their_level(make_questions):
    questions = make_questions({"qa/easy": 2})
    questions[0] = replace(questions[0], meta={"source": "rag"})
    tallies = by_key(tally(questions[0], 0), tally(questions[1], 8))
    measured = relevel(questions, tallies, LEVELS, 0.95)
    assert [q.level for q in measured] == [Level.VERY_HARD, Level.EASY]
    assert [replace(q, level=Level.EASY, meta={}) for q in measured] == [
        replace(q, meta={}) for q in questions
    ]
    assert measured[0].meta["source"] == "rag"
    assert measured[0].meta["pass_rate"] == "0.0000"
    assert measured[0].meta["level_before"] == "easy"
    assert moves(questions, measured) == {
        ("qa/easy", "qa/very_hard"): 1,
        ("qa/easy", "qa/easy"): 1,
    }


def test_a_question_near_a_threshold_is_uncertain_until_it_has_many_samples(make_questions):
    (question,) = make_questions({"qa/easy": 1})
    for samples, expected in ((8, 1), (800, 0)):
        tallies = by_key(tally(question, 0.6 * samples, samples=samples))
        assert num_uncertain([question], tallies, LEVELS, 0.95) == expected


def test_the_gain_is_by_the_bucket_that_questions_came_with(make_questions):
    questions = make_questions({"qa/hard": 2, "qa/easy": 2, "math/easy": 1})
    tallies = by_key(
        *(tally(q, 2) for q in questions),
        *(tally(q, 6, retrieval=True, searches=16) for q in questions[:2]),
        *(tally(q, 1, retrieval=True) for q in questions[2:4]),
    )
    easy, hard = gains(questions, tallies, 0.95)
    assert (hard.bucket, hard.num_questions) == ("qa/hard", 2)
    assert (hard.solved_without, hard.solved_with) == (0.25, 0.75)
    assert hard.gain.value == 0.5
    assert hard.searches_per_sample == 2.0
    assert hard.gain_per_search == 0.25
    assert easy.gain.value == -0.125
    assert easy.gain_per_search is None


def test_the_interval_of_a_gain_counts_questions_and_not_samples(make_questions):
    questions = make_questions({"qa/hard": 40})
    wide, narrow = [], []
    for samples, found in ((8, wide), (8000, narrow)):
        tallies = by_key(
            *(tally(q, 0, samples=samples) for q in questions),
            *(
                tally(q, samples * (i % 2), samples=samples, retrieval=True, searches=1)
                for i, q in enumerate(questions)
            ),
        )
        found += gains(questions, tallies, 0.95)
    assert wide[0].gain == narrow[0].gain
    assert wide[0].gain.low == pytest.approx(0.5 - 1.96 * 0.5064 / 40**0.5, abs=1e-3)

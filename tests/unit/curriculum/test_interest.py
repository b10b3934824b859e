import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ur2.curriculum.interest import Interest
from ur2.curriculum.options import CurriculumOptions
from ur2.curriculum.sampler import Sampler

VARIANCE = CurriculumOptions(priority="variance", priority_max_skips=3)


def play(sampler, make_outcome, rates, draws):
    """Draws; each question is solved at its rate. Returns what was drawn."""
    drawn = []
    for _ in range(draws):
        question = sampler.draw()
        drawn.append(question.id)
        sampler.observe([make_outcome(question, rates[question.id])])
    return drawn


@pytest.fixture
def questions(make_questions):
    return make_questions({"qa/hard": 40})


def test_questions_of_intermediate_pass_rate_are_preferred(make_outcome, questions):
    rates = {q.id: (0.5 if i < 10 else float(i % 2)) for i, q in enumerate(questions)}
    drawn = Counter(play(Sampler(questions, VARIANCE, 0), make_outcome, rates, 4000))
    preferred = [drawn[q.id] for q in questions[:10]]
    others = [drawn[q.id] for q in questions[10:]]
    # Left out of three epochs, then drawn once.
    assert min(preferred) > 3.5 * max(others)
    assert min(others) > 0


@settings(max_examples=20, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**31), skips=st.integers(0, 4))
def test_no_question_is_drawn_twice_in_an_epoch_or_left_out_too_often(
    make_questions, make_outcome, data, seed, skips
):
    questions = make_questions({"qa/hard": 9})
    rates = {q.id: data.draw(st.sampled_from([0.0, 0.125, 0.5, 1.0])) for q in questions}
    options = CurriculumOptions(priority="variance", priority_max_skips=skips)
    sampler = Sampler(questions, options, seed)
    epochs: dict[int, list[str]] = {}
    for _ in range(120):
        question = sampler.draw()
        number = sampler.state_dict()["epochs"]["qa/hard"]["number"]
        epochs.setdefault(number, []).append(question.id)
        sampler.observe([make_outcome(question, rates[question.id])])
    whole = [epochs[number] for number in sorted(epochs)][:-1]
    for epoch in whole:
        assert len(set(epoch)) == len(epoch)
    for start in range(len(whole) - skips):
        together = set().union(*whole[start : start + skips + 1])
        assert together == {q.id for q in questions}


@settings(max_examples=20, deadline=None)
@given(before=st.integers(0, 60), seed=st.integers(0, 2**31))
def test_a_selecting_sampler_resumes_mid_epoch(make_questions, make_outcome, before, seed):
    questions = make_questions({"qa/hard": 7, "math/easy": 3})
    options = CurriculumOptions(priority="variance", retire_after=2, retire_return_chance=0.3)
    rates = {q.id: (i % 3) / 2 for i, q in enumerate(questions)}
    whole = play(Sampler(questions, options, seed), make_outcome, rates, before + 40)
    first = Sampler(questions, options, seed)
    play(first, make_outcome, rates, before)
    second = Sampler(questions, options, 99)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.state_dict() == first.state_dict()
    assert play(second, make_outcome, rates, 40) == whole[before:]


def test_retired_questions_return_as_often_as_configured(make_outcome, questions):
    options = CurriculumOptions(retire_after=2, retire_return_chance=0.25)
    rates = {q.id: (1.0 if i < 20 else 0.5) for i, q in enumerate(questions)}
    sampler = Sampler(questions, options, 0)
    play(sampler, make_outcome, rates, 80)
    assert sampler.metrics() == {"curriculum/questions_retired": 20.0}
    drawn = Counter(play(sampler, make_outcome, rates, 5000))
    staying = np.mean([drawn[q.id] for q in questions[20:]])
    returning = np.mean([drawn[q.id] for q in questions[:20]])
    assert returning / staying == pytest.approx(0.25, rel=0.15)


def test_a_retired_question_is_back_once_it_is_neither_all_right_nor_all_wrong(
    make_outcome, questions
):
    interest = Interest(CurriculumOptions(retire_after=3))
    for solved in (0.0, 0.0, 0.0):
        interest.observe([make_outcome(questions[0], solved)])
    assert interest.num_retired() == 1
    interest.observe([make_outcome(questions[0], 0.125)])
    assert interest.num_retired() == 0


def test_right_and_wrong_in_turn_retire_nobody(make_outcome, questions):
    interest = Interest(CurriculumOptions(retire_after=2))
    for solved in (0.0, 1.0, 0.0, 1.0):
        interest.observe([make_outcome(questions[0], solved)])
    assert interest.num_retired() == 0


def test_a_bucket_of_retired_questions_is_drawn_whole(make_questions, make_outcome):
    questions = make_questions({"qa/easy": 4})
    options = CurriculumOptions(retire_after=1, retire_return_chance=0.0)
    drawn = play(
        Sampler(questions, options, 0), make_outcome, dict.fromkeys([q.id for q in questions], 1), 8
    )
    assert Counter(drawn) == dict.fromkeys([q.id for q in questions], 2)


@given(draws=st.integers(1, 100))
def test_selection_leaves_the_weights_of_buckets_alone(make_questions, make_outcome, draws):
    questions = make_questions({"qa/easy": 5, "qa/hard": 5})
    weights = {"qa/easy": 3.0, "qa/hard": 1.0}
    options = CurriculumOptions(
        bucket_weights=weights, priority="variance", retire_after=1, retire_return_chance=0.0
    )
    rates = {q.id: float(i % 2) for i, q in enumerate(questions)}
    drawn = play(Sampler(questions, options, 0), make_outcome, rates, draws)
    assert abs(sum(key.startswith("qa/easy") for key in drawn) - 0.75 * draws) <= 1


def test_the_state_has_nothing_on_questions_where_none_are_selected(make_outcome, questions):
    sampler = Sampler(questions, CurriculumOptions(), 0)
    play(sampler, make_outcome, {q.id: 1.0 for q in questions}, 100)
    assert len(json.dumps(sampler.state_dict())) < 400

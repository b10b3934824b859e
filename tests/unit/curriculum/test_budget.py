import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ur2.curriculum.budget import SearchBudget
from ur2.curriculum.curriculum import Curriculum
from ur2.curriculum.options import CurriculumOptions
from ur2.errors import InputError


def spend(budget, step, wanted, make_outcome, question, searches):
    """Plays `wanted` groups with at most 16 searches each; returns what they made."""
    taken = [budget.take(step) for _ in range(wanted)]
    made = [min(n, 2.0) for n, on in zip(searches, taken, strict=False) if on]
    budget.observe([make_outcome(question, 0.5, retrieval=True, searches=n) for n in made])
    return sum(round(8 * n) for n in made)


@given(
    per_step=st.integers(1, 60),
    carry=st.integers(0, 5),
    steps=st.lists(st.tuples(st.integers(0, 12), st.floats(0, 2)), min_size=1, max_size=25),
)
def test_the_cap_is_never_exceeded(make_questions, make_outcome, per_step, carry, steps):
    if per_step * (1 + carry) < 16:
        with pytest.raises(InputError, match="has room for no group"):
            SearchBudget(per_step, carry, 16)
        return
    question = make_questions({"qa/hard": 1})[0]
    budget, total = SearchBudget(per_step, carry, 16), 0
    for step, (wanted, searches) in enumerate(steps, start=1):
        made = spend(budget, step, wanted, make_outcome, question, [searches] * wanted)
        total += made
        assert made <= per_step * (1 + carry)
        assert total <= per_step * step


def test_what_was_saved_is_spent_later(make_questions, make_outcome):
    question = make_questions({"qa/hard": 1})[0]
    shares = {}
    for carry in (0, 4):
        budget, total = SearchBudget(32, carry, 16), 0
        for step in range(1, 51):
            total += spend(budget, step, 30, make_outcome, question, [0.5] * 30)
        shares[carry] = total / (50 * 32)
    assert shares[0] == pytest.approx(0.25)
    assert shares[4] > 0.9


def test_a_group_beyond_the_budget_has_retrieval_off_and_says_why(make_questions):
    options = CurriculumOptions(policy="always", search_budget_per_step=40)
    questions = make_questions({"qa/hard": 9})
    curriculum = Curriculum(questions, options, 0, 5, max_searches_per_group=16)
    for step in (1, 2):
        drawn = curriculum.draw(step)
        assert [a.retrieval for a in drawn] == [True, True, False, False, False]
        assert [a.reason for a in drawn[1:3]] == ["always", "budget (always)"]
        assert curriculum.metrics()["curriculum/search_budget_denied"] == 3.0
        assert curriculum.metrics()["curriculum/search_budget_left"] == 8.0


def test_a_budget_of_unknown_worst_case_is_refused(make_questions):
    options = CurriculumOptions(search_budget_per_step=40)
    with pytest.raises(InputError, match="search_budget_per_step"):
        Curriculum(make_questions({"qa/hard": 1}), options, 0, 5)


def test_a_budget_resumes(make_questions, make_outcome):
    question = make_questions({"qa/hard": 1})[0]
    first, second = SearchBudget(32, 4, 16), SearchBudget(32, 4, 16)
    spend(first, 1, 2, make_outcome, question, [0.5] * 2)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    taken = [[budget.take(2) for _ in range(6)] for budget in (first, second)]
    assert taken[0] == taken[1] == [True] * 3 + [False] * 3

import pytest

from ur2.prompts.dialect import Answer, Dialect, Search, Stop
from ur2.prompts.options import DialectOptions
from ur2.rollout.environment import Refused, Rules
from ur2.types import Status

DIALECT = Dialect(
    DialectOptions.load(
        {
            "search": {"open": "<search>", "close": "</search>"},
            "documents": {"open": "<docs>", "close": "</docs>"},
            "answer": {"open": "<answer>", "close": "</answer>"},
            "max_searches": 2,
        },
        where="test",
    )
)
SEARCH = "so <search> a b </search>"


def rules(*, retrieval=True, max_turns=9):
    return Rules(dialect=DIALECT, task="qa", retrieval=retrieval, max_turns=max_turns)


def test_a_search_is_allowed_where_retrieval_is_on_and_turns_remain():
    assert rules().react(SEARCH, num_turns=1, num_searches=0) == Search("a b")


def test_a_search_is_refused_where_retrieval_is_off():
    move = rules(retrieval=False).react(SEARCH, num_turns=1, num_searches=0)
    assert move == Refused("a b", Status.NO_ANSWER)


@pytest.mark.parametrize(("num_searches", "allowed"), [(1, True), (2, False)])
def test_the_search_limit_counts_earlier_searches(num_searches, allowed):
    move = rules().react(SEARCH, num_turns=num_searches + 1, num_searches=num_searches)
    assert move == (Search("a b") if allowed else Refused("a b", Status.NO_ANSWER))


@pytest.mark.parametrize(("num_turns", "allowed"), [(2, True), (3, False)])
def test_the_last_turn_must_not_search(num_turns, allowed):
    move = rules(max_turns=3).react(SEARCH, num_turns=num_turns, num_searches=0)
    assert move == (Search("a b") if allowed else Refused("a b", Status.OUT_OF_TURNS))


def test_an_answer_counts_in_the_last_turn_and_without_retrieval():
    move = rules(retrieval=False, max_turns=1).react(
        "<answer> Paris </answer>", num_turns=1, num_searches=0
    )
    assert move == Answer("Paris")


def test_a_turn_with_neither_stops():
    assert isinstance(rules().react("hm", num_turns=1, num_searches=0), Stop)

"""Terms and graders of a user's own, by import path."""

import asyncio
import sys
from dataclasses import replace
from types import ModuleType

import pytest

from ur2.errors import InputError, PluginError
from ur2.options import Options
from ur2.rewards.grading import GraderFacts
from ur2.rewards.options import RewardOptions
from ur2.rewards.rubric import Rubric
from ur2.rewards.terms import TermFacts
from ur2.types import Assignment, Author, Group


class Brevity(Options):
    max_words: int = 3


def words(text):
    return len(text.split())


def by_turn(outcome, options):
    return [float(words(text) <= options.max_words) for text in outcome.trajectory.policy_texts]


def asks_in_vain(answer, question):
    raise KeyError(answer)


async def first_letter(answer, question):
    return float(answer[0] == question.answers[0][0])


class Cased(Options):
    cased: bool


@pytest.fixture(autouse=True)
def mine(monkeypatch):
    module = ModuleType("mine")
    module.length = lambda outcome: words(outcome.trajectory.policy_texts[-1])
    module.asked = lambda outcome: float(outcome.assignment.question.text.endswith("?"))
    module.brevity = TermFacts(measure=by_turn, options=Brevity, by="turn")
    module.short = TermFacts(measure=lambda outcome, _: [1.0], by="turn")
    module.broken = lambda outcome: 1 / 0
    module.endless = lambda outcome: float("inf")
    module.first_letter = first_letter
    module.asks_in_vain = asks_in_vain
    module.sleeps = GraderFacts(
        grade=lambda a, q, _: asyncio.Event().wait(), waits=True, timeout_s=0.01
    )
    module.generous = lambda answer, question: 2.0
    module.same = GraderFacts(
        grade=lambda a, q, options: float(a == q.answers[0] or not options.cased),
        options=Cased,
        tasks=("qa",),
    )
    monkeypatch.setitem(sys.modules, "mine", module)


@pytest.fixture
def score(atlas, make_question, make_trajectory, answered):
    async def run(*turns, terms=None, grader="exact_match", grader_options=None, rewards=()):
        tree = {"terms": terms or {}, "graders": {"qa": grader}}
        if grader_options is not None:
            tree["grader_options"] = {"qa": grader_options}
        rubric = Rubric.from_options(RewardOptions.load(tree, where="reward"), atlas)
        assignment = Assignment(
            id="1-0", question=make_question(), retrieval=True, reason="", step=1
        )
        played = answered(make_trajectory(*turns), atlas, "qa")
        given = iter(rewards)
        segments = tuple(
            replace(s, reward=next(given, 0.0)) if s.author is Author.POLICY else s
            for s in played.segments
        )
        played = replace(played, segments=segments)
        scored = await rubric.score(Group(assignment=assignment, trajectories=(played,)), 1)
        return scored.scores[0]

    return run


ANSWER = "<answer>Paris</answer>"


async def test_a_function_is_a_term(score):
    terms = {"length": {"kind": "mine:length", "weight": 0.5}, "asked": {"kind": "mine:asked"}}
    shown = await score("a b c", terms=terms)
    assert shown.parts == {"length": 1.5, "asked": 1.0}
    assert shown.turns == ()


async def test_a_term_may_measure_turns_and_has_options_of_its_own(score):
    terms = {
        "brevity": {"kind": "mine:brevity", "weight": 2.0, "options": {"max_words": 1}},
        "answer": {"kind": "answer"},
    }
    shown = await score("a", "a b", ANSWER, terms=terms)
    assert shown.turns == (2.0, 0.0, 2.0)
    assert shown.parts == {"brevity": 4.0, "answer": 1.0}
    assert shown.total == 5.0


async def test_clips_of_turns_bound_each_and_still_sum_to_the_part(score):
    terms = {"brevity": {"kind": "mine:brevity", "weight": 2.0, "clip": [0.0, 0.5]}}
    shown = await score("a", ANSWER, terms=terms)
    assert (shown.turns, shown.parts) == ((0.5, 0.5), {"brevity": 1.0})


async def test_turns_get_nothing_of_a_term_that_does_not_apply(score):
    terms = {
        "brevity": {"kind": "mine:brevity", "tasks": ["math"]},
        "bonus": {"kind": "mine:brevity", "requires": ["brevity"]},
    }
    shown = await score("a", ANSWER, terms=terms)
    assert shown.turns == (0.0, 0.0)
    assert shown.total == 0.0


async def test_what_the_environment_gave_is_a_part_and_belongs_to_its_turns(score):
    terms = {"brevity": {"kind": "mine:brevity"}, "answer": {"kind": "answer"}}
    shown = await score("a", ANSWER, terms=terms, rewards=[-0.5, 0.25])
    assert shown.turns == (0.5, 1.25)
    assert shown.parts == {"brevity": 2.0, "answer": 1.0, "turns": -0.25}
    assert shown.total == 2.75
    assert (await score("a", ANSWER, rewards=[0.0, 0.25])).turns == (0.0, 0.25)


async def test_the_name_of_what_the_environment_gave_is_no_terms(score):
    with pytest.raises(InputError, match="cannot be called 'turns'"):
        await score("a", terms={"turns": {"kind": "answer"}})


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"kind": "mine:nothing"}, r"terms.x.kind: 'mine:nothing' cannot be imported"),
        ({"kind": "nobody.has:this"}, "cannot be imported: ModuleNotFoundError"),
        ({"kind": "mine:asked", "options": {"a": 1}}, "terms.x.options: there are no such options"),
        (
            {"kind": "mine:brevity", "options": {"max_word": 1}},
            "terms.x.options: unknown key 'max_word' .*max_words",
        ),
        ({"kind": "mine:brevity", "options": {"max_words": "x"}}, "terms.x.options: 'max_words'"),
        ({"kind": "mine:brevity", "values": [1.0]}, "has no `values`"),
        ({"kind": "mine:same"}, "is neither a TermFacts nor a function"),
        ({"kind": "collections:OrderedDict"}, "is neither a TermFacts nor a function"),
    ],
)
async def test_terms_that_do_not_fit_are_wrong_options(score, term, message):
    with pytest.raises(InputError, match=message):
        await score("a", terms={"x": term})


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("broken", r"term 'x' on trajectory 't1': ZeroDivisionError: .*\(test_own.py, line \d+\)"),
        ("endless", "term 'x' on trajectory 't1' measured inf"),
        ("short", "term 'x' on trajectory 't1' gave 1 values for 2 turns"),
    ],
)
async def test_terms_that_fail_are_named(score, kind, message):
    with pytest.raises(PluginError, match=message):
        await score("a", "b", terms={"x": {"kind": f"mine:{kind}"}})


async def test_a_grader_may_be_a_function_that_is_awaited(score):
    shown = await score("<answer>Perth</answer>", grader="mine:first_letter")
    assert shown.correct == 1.0


@pytest.mark.parametrize(("cased", "correct"), [(True, 0.0), (False, 1.0)])
async def test_a_grader_has_options_of_its_own(score, cased, correct):
    given = {"cased": cased}
    shown = await score("<answer>paris</answer>", grader="mine:same", grader_options=given)
    assert shown.correct == correct


@pytest.mark.parametrize(
    ("grader", "options", "message"),
    [
        ("f2", None, r"graders.qa: 'f2' is unknown \(known: .*exact_match"),
        ("f1", {"a": 1}, "grader_options.qa: there are no such options"),
        ("mine:same", None, "grader_options.qa: 'cased' is required"),
        ("choice", None, "graders.qa cannot be 'choice': it grades choice"),
    ],
)
async def test_graders_that_do_not_fit_are_wrong_options(score, grader, options, message):
    with pytest.raises(InputError, match=message):
        await score(ANSWER, grader=grader, grader_options=options)


@pytest.mark.parametrize(
    ("grader", "message"),
    [
        ("asks_in_vain", r"'mine:asks_in_vain' on question 'q1': KeyError: 'Paris' \(test_own.py"),
        ("generous", "gave 2.0; a grade is between 0 and 1"),
        ("sleeps", "'mine:sleeps' on question 'q1': TimeoutError"),
    ],
)
async def test_graders_that_fail_are_named(score, grader, message):
    with pytest.raises(PluginError, match=message):
        await score(ANSWER, grader=f"mine:{grader}")


@pytest.mark.parametrize("earned", [float("nan"), float("-inf"), 1e300])
async def test_what_an_environment_earned_is_a_number_that_can_be_squared(score, earned):
    with pytest.raises(PluginError, match=r"reward term 'turns' on trajectory 't1'.* not finite"):
        await score("a", ANSWER, rewards=(0.5, earned))


async def test_a_weight_that_makes_a_reward_endless_is_named_with_its_term(score):
    terms = {"much": {"kind": "constant", "weight": 1e300}}
    with pytest.raises(PluginError, match=r"reward term 'much' on trajectory 't1' is 1e\+300"):
        await score("a", terms=terms)

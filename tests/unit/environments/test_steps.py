"""R3-RAG's game: each case of NEIGHBOURS, section B, and what may go wrong in it."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ur2.environments.base import Ask, End, Services, Turn
from ur2.environments.steps import BAD_FORMAT, StepsEnvironment, StepsOptions
from ur2.errors import ComponentError
from ur2.prompts.options import PromptOptions
from ur2.prompts.steps import Step, heading, read_step
from ur2.prompts.wording import Wording
from ur2.retrieval.reading.relevance import (
    JudgedStep,
    RelevanceOptions,
    by_encoder,
    by_length,
    make_relevance,
    read_relevance,
)
from ur2.rewards.grading import Answered, Grading
from ur2.rewards.options import RewardOptions
from ur2.rewards.steps import (
    CasedMatchOptions,
    StepsRewardOptions,
    cased_match,
    step_rewards,
)
from ur2.types import (
    Assignment,
    Author,
    Finding,
    Level,
    Passage,
    Question,
    RetrievalFailed,
    Segment,
    Status,
    Trajectory,
)

QUESTION = Question(
    id="q",
    task="qa",
    text="Where was the author of Dune born?",
    answers=("Tacoma",),
    level=Level.HARD,
)
PROMPT = PromptOptions.load(
    {
        "protocol": {
            "search": {"open": "<search>", "close": "</search>"},
            "documents": {"open": "<docs>", "close": "</docs>"},
            "answer": {"open": "<answer>", "close": "</answer>"},
        },
        "templates": {},
    },
    where="test",
)


def query(number, text="Who wrote Dune?"):
    return f"Step {number}:\nThe problem analysis: I look.\nThe retrieval query: {text}"


def answer(number, text="Tacoma"):
    return f"Step {number}:\nThe problem analysis: I know.\nThe final answer: {text}"


class Shelf:
    """Gives the passages of given ids, search by search."""

    def __init__(self, *hits):
        self.hits, self.queries = list(hits), []

    async def look_up(self, lookup):
        self.queries.append(lookup.query)
        found = self.hits.pop(0) if self.hits else ("p",)
        if isinstance(found, RetrievalFailed):
            return Finding(outcome=found)
        return Finding(outcome=tuple(Passage(id=str(i), text=f"text {i}") for i in found))


def play(*turns, shelf=None, retrieval=True, question=QUESTION, **options):
    """The replies to turns, of an environment whose judge is the formula by length."""
    tree = {"relevance": {"by": "length"}, **options}
    services = Services(knowledge=shelf or Shelf(), wording=Wording(PROMPT))
    assignment = Assignment(id="0-0", question=question, retrieval=retrieval, reason="", step=0)
    game = StepsEnvironment(assignment, StepsOptions.load(tree, where="test"), services)
    asks, replies = [game.opening()], []

    async def go():
        for number, text in enumerate(turns, start=1):
            replies.append(await game.react(Turn(text=text, number=number)))
            if isinstance(replies[-1].then, End):
                break
            asks.append(replies[-1].then)

    asyncio.run(go())
    return asks, replies


def shown(ask):
    return "".join(p.before + p.text + p.after for p in ask.pieces)


def test_the_history_stands_in_the_message_of_a_context_of_its_own():
    asks, replies = play(query(1), answer(2), shelf=Shelf((5, 9, 7)))
    assert shown(asks[0]) == "The question: Where was the author of Dune born?"
    assert asks[1].fresh
    assert shown(asks[1]) == (
        "The question: Where was the author of Dune born?"
        "\nStep 1:\nThe problem analysis: I look.\nThe retrieval query: Who wrote Dune"
        "\nThe retrieval documents: text 5\ntext 9"
    )
    assert replies[-1].then == End(status=Status.ANSWERED, answer="Tacoma")
    assert [event.query for event in replies[0].events] == ["Who wrote Dune"]


async def titled(lookup):
    return Finding(outcome=(Passage(id="1", title="Dune", text="A novel."),))


def test_a_passages_title_stands_above_its_text():
    shelf = Shelf()
    shelf.look_up = titled
    asks, _ = play(query(1), answer(2), shelf=shelf)
    assert shown(asks[1]).endswith("The retrieval documents: Dune\nA novel.")


def test_passages_that_were_seen_are_left_out_and_not_replaced():
    asks, _ = play(query(1), query(2), answer(3), shelf=Shelf((5,), (5, 9, 7)))
    assert shown(asks[2]).endswith("The retrieval documents: text 9")


def test_an_evaluation_shows_what_was_seen_before_again():
    asks, _ = play(
        query(1), query(2), answer(3), shelf=Shelf((5,), (5, 9, 7)), hits=3, deduplicate=False
    )
    assert shown(asks[2]).endswith("The retrieval documents: text 5\ntext 9\ntext 7")


def test_an_episode_shows_no_more_passages_than_it_may():
    asks, _ = play(query(1), query(2), answer(3), shelf=Shelf((1, 2), (3, 4)), max_documents=3)
    assert shown(asks[2]).endswith("The retrieval documents: text 3")


@pytest.mark.parametrize(("chars", "documents"), [(9, "text 1\nte"), (None, "text 1\ntext 2")])
def test_documents_are_cut_to_their_characters(chars, documents):
    asks, _ = play(query(1), answer(2), shelf=Shelf((1, 2)), max_document_chars=chars)
    assert shown(asks[1]).endswith(f"The retrieval documents: {documents}")


def test_a_query_in_the_last_step_is_still_made_and_judged():
    _, replies = play(*(query(n) for n in range(1, 6)))
    assert replies[-1].then == End(status=Status.OUT_OF_TURNS)
    assert len(replies) == 5
    assert all(reply.reward > 0 and reply.events for reply in replies)


def test_a_step_without_its_heading_is_asked_for_again_and_ends_the_episode_at_the_third_time():
    asks, replies = play(query(1), "no heading", "none", "never")
    assert asks[1] == asks[2] == asks[3]
    assert [reply.reward for reply in replies[1:]] == [0.0, 0.0, BAD_FORMAT]
    assert replies[-1].then == End(status=Status.NO_ANSWER)
    assert isinstance(play("none", query(1))[1][-1].then, Ask)


@pytest.mark.parametrize(
    "text",
    [
        "Step 1:\nThe retrieval query: x",
        "Step 1:\nThe problem analysis: \nThe retrieval query: x",
        "Step 1:\nThe problem analysis: a\nThe retrieval query: ?",
        "Step 1:\nThe problem analysis: a",
    ],
)
def test_a_missing_or_empty_field_ends_the_episode_at_once(text):
    _, replies = play(text)
    assert (replies[0].then, replies[0].reward) == (End(status=Status.NO_ANSWER), BAD_FORMAT)


def test_no_document_breaks_the_format_unless_as_published():
    forged = Shelf()
    forged.look_up = lambda lookup: _found("Step 2:\n")
    assert isinstance(play(query(1), answer(2), shelf=forged)[1][-1].then, End)
    forged.look_up = lambda lookup: _found("Step 2:\n")
    _, replies = play(query(1), answer(2), shelf=forged, as_published=True)
    assert isinstance(replies[-1].then, Ask)


def test_a_question_breaks_the_format_as_published_only():
    asking = replace(QUESTION, text="What is Step 1:\n in baking?")
    assert play(answer(1), question=asking)[1][-1].then.status is Status.ANSWERED
    _, replies = play(answer(1), answer(1), answer(1), question=asking, as_published=True)
    assert [reply.reward for reply in replies] == [0.0, 0.0, BAD_FORMAT]


async def _found(text):
    return Finding(outcome=(Passage(id="p", text=text),))


def test_a_query_is_refused_where_retrieval_is_off():
    shelf = Shelf()
    _, replies = play(query(1), shelf=shelf, retrieval=False)
    assert replies[0].then == End(status=Status.NO_ANSWER)
    assert [event.outcome for event in replies[0].events] == ["refused"]
    assert shelf.queries == []


def test_a_failed_search_is_a_typed_end_and_empty_documents_as_published():
    down = RetrievalFailed(reason="down")
    _, replies = play(query(1), shelf=Shelf(down))
    assert replies[0].then == End(status=Status.TOOL_FAILED)
    assert [event.outcome for event in replies[0].events] == ["failed"]
    asks, _ = play(query(1), shelf=Shelf(down), as_published=True)
    assert shown(asks[1]).endswith("The retrieval documents: ")


@pytest.mark.parametrize(
    ("text", "step"),
    [
        (
            "The retrieval query: Who wrote Dune? When?",
            Step(analysis="a", query="Who wrote Dune"),
        ),
        ("The final answer: Rome\nStep 3:", Step(analysis="a", answer="Rome")),
        ("The final answer: Rome<|im_end|>", Step(analysis="a", answer="Rome")),
        ("The retrieval query: y</s>", Step(analysis="a", query="y")),
        ("The final answer: Rome ### x", Step(analysis="a", answer="Rome")),
        ("The final answer: X\nThe retrieval query: y", Step(analysis="a", answer="X")),
        ("The retrieval query: y\nThe final answer: X", Step(analysis="a", query="y")),
        ("The retrieval query: y\nThe retrieval documents: z", Step(analysis="a", query="y")),
    ],
)
def test_a_field_ends_where_the_next_thing_begins(text, step):
    assert read_step(f"Step 1:\nThe problem analysis: a\n{text}") == step


def test_the_published_code_eats_letters():
    text = "The problem analysis: nation\nThe final answer: Berlin"
    assert read_step(text) == Step(analysis="nation", answer="Berlin")
    assert read_step(text, as_published=True) == Step(analysis="atio", answer="Berli")


WORDS = st.text("abc d.", min_size=1, max_size=20).map(str.strip).filter(bool)


@given(number=st.integers(1, 9), analysis=WORDS, content=WORDS, asks=st.booleans())
def test_a_written_step_is_read_back(number, analysis, content, asks):
    step = Step(analysis=analysis, **{"query" if asks else "answer": content})
    written = step.written(number)
    assert written.count(heading(number)) == 1
    assert read_step(written) == step


@given(st.text(max_size=80))
def test_no_turn_breaks_the_reading(text):
    read_step(f"The problem analysis:{text}")
    play(text, query(1), answer(2))


def trajectory(status, *worth):
    segments = tuple(
        Segment(author=Author.POLICY, token_ids=(1,), text="", reward=w) for w in worth
    )
    return Trajectory(id="t", segments=segments, events=(), status=status)


@pytest.mark.parametrize(
    ("status", "grade", "worth", "variant", "rewards"),
    [
        (Status.ANSWERED, 1.0, (0.8, 0.6, 0.0), "both", [1.28, 0.96, 2.0]),
        (Status.ANSWERED, 0.0, (0.8, 0.6, 0.0), "both", [0.64, 0.48, 0.0]),
        (Status.OUT_OF_TURNS, 0.0, (0.5,) * 5, "both", [0.45] * 5),
        (Status.NO_ANSWER, 0.0, (0.7, BAD_FORMAT), "both", [0.7, BAD_FORMAT]),
        (Status.ANSWERED, 1.0, (0.0,), "both", [2.0]),
        (Status.ANSWERED, 1.0, (0.8, 0.6, 0.0), "outcome", [2.0, 2.0, 2.0]),
        (Status.ANSWERED, 0.0, (0.8, 0.6, 0.0), "outcome", [0.0, 0.0, 0.0]),
        (Status.ANSWERED, 1.0, (0.8, 0.6, 0.0), "process", [0.8, 0.6, 0.0]),
        (Status.OUT_OF_TURNS, 0.0, (0.5,) * 5, "process", [0.5] * 5),
    ],
)
def test_steps_are_rewarded_by_how_the_episode_ends(status, grade, worth, variant, rewards):
    options = StepsRewardOptions(variant=variant)
    assert step_rewards(trajectory(status, *worth), grade, options) == pytest.approx(rewards)


@pytest.mark.parametrize(
    ("given_", "right"),
    [
        ("Tacoma", 1),
        ("tacoma", 1),
        ("TACOMA", 1),
        ("tACOMA", 1),
        ("St. Tacoma", 0),
        ("Tacoma.", 1),
        ("Tacoma City", 0),
    ],
)
def test_an_answer_matches_a_gold_to_the_letter_in_some_case(given_, right):
    assert cased_match(given_, QUESTION, CasedMatchOptions()) == right


@pytest.mark.parametrize(("tree", "grade"), [({}, 1.0), ({"qa": {"as_published": True}}, 0.0)])
def test_the_first_gold_alone_counts_as_published_only(tree, grade):
    options = RewardOptions.load(
        {"graders": {"qa": "cased_match"}, "grader_options": tree, "terms": {}}, where="test"
    )
    question = replace(QUESTION, answers=("Tacoma, Washington", "Tacoma"))
    grades = asyncio.run(Grading(options).grade([Answered(question, ("Tacoma",))]))
    assert grades[0][0].value == grade


def test_the_formula_by_length_is_the_published_one():
    def judged(analysis, documents):
        return asyncio.run(by_length(JudgedStep("q", analysis, "x", documents)))

    assert judged("w " * 16, "d " * 31) == 1.0
    assert judged("w", "d") == pytest.approx(0.15 + 0.24 + 0.3)
    assert judged("w", "") == pytest.approx(0.15 + 0.24)


@pytest.mark.parametrize(
    ("text", "worth"),
    [
        ("Relevance: 0.8", 0.8),
        ("Relevance: 0.2 no, Relevance: of 1 it has 0.7", 0.7),
        ("Relevance: 7", 1.0),
        ("Relevance: -3", 0.0),
        ("Relevance: high", None),
        ("0.5", None),
    ],
)
def test_the_last_number_of_a_verdict_counts(text, worth):
    assert read_relevance(text) == worth


def test_the_offline_judge_prefers_what_the_query_is_about():
    async def compare():
        steps = (
            JudgedStep("q", "a", "capital of France", documents)
            for documents in ("Paris is the capital of France.", "Tea is hot.", "")
        )
        return await asyncio.gather(*map(by_encoder, steps))

    near, far, none = asyncio.run(compare())
    assert 1 >= near > far >= none == 0.0


def test_a_judge_out_of_reach_stops_the_run_unless_length_may_stand_in():
    step = JudgedStep("q", "a", "x", "d")
    endpoint = {"url": "http://127.0.0.1:9/v1", "max_tries": 1, "timeout_s": 0.5}
    for unreached in ("fail", "length"):
        tree = {"by": "model", "endpoint": endpoint, "unreached": unreached}
        judge = make_relevance(RelevanceOptions.load(tree, where="test"))
        if unreached == "length":
            assert asyncio.run(judge(step)) == pytest.approx(0.69)
        else:
            with pytest.raises(ComponentError, match="no verdict"):
                asyncio.run(judge(step))

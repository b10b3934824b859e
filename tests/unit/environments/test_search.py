"""The rules of the search game, without an engine or a tokenizer."""

import pytest

from ur2.environments.base import Ask, End, Services, Turn
from ur2.environments.search import SearchEnvironment, SearchOptions
from ur2.prompts.options import PromptOptions
from ur2.prompts.wording import Wording
from ur2.types import Assignment, Author, Finding, Level, Passage, Question, Status, ToolUse

PROMPT = PromptOptions.load(
    {
        "protocol": {
            "search": {"open": "<search>", "close": "</search>"},
            "documents": {"open": "<docs>", "close": "</docs>"},
            "answer": {"open": "<answer>", "close": "</answer>"},
            "max_searches": 2,
        },
        "templates": {"qa": {"search": "{{ question.text }}", "direct": "{{ question.text }}"}},
        "last_turn": "Now.",
    },
    where="test",
)
SEARCH = "so <search> a b </search>"
QUESTION = Question(id="q", task="qa", text="Where?", answers=("Paris",), level=Level.EASY)
USED = ToolUse(tool="search", arguments={"query": "x"}, outcome="found")


class Library:
    """Knows one passage, and counts who asks."""

    def __init__(self):
        self.queries = []

    async def look_up(self, lookup):
        self.queries.append(lookup.query)
        return Finding(outcome=(Passage(id="p", text="Paris."),))


@pytest.fixture
def library():
    return Library()


@pytest.fixture
def react(library):
    async def react(text, *, number=1, num_searches=0, retrieval=True, max_turns=9, is_cut=False):
        assignment = Assignment(
            id="0-0", question=QUESTION, retrieval=retrieval, reason="test", step=0
        )
        services = Services(knowledge=library, wording=Wording(PROMPT))
        game = SearchEnvironment(assignment, SearchOptions(max_turns=max_turns), services)
        turn = Turn(text=text, number=number, events=(USED,) * num_searches, is_cut=is_cut)
        return await game.react(turn)

    return react


async def test_a_search_is_made_where_retrieval_is_on_and_turns_remain(react, library):
    reply = await react(SEARCH)
    assert library.queries == ["a b"]
    assert [(e.outcome, e.query, e.ids) for e in reply.events] == [("found", "a b", ("p",))]
    assert isinstance(reply.then, Ask)
    assert [(p.before, p.text, p.after) for p in reply.then.pieces] == [
        ("<docs> ", "Paris.", " </docs>")
    ]


@pytest.mark.parametrize(
    ("refused", "status"),
    [
        ({"retrieval": False}, Status.NO_ANSWER),
        ({"num_searches": 2, "number": 3}, Status.NO_ANSWER),
        ({"max_turns": 3, "number": 3}, Status.OUT_OF_TURNS),
    ],
)
async def test_a_refused_search_ends_the_episode_and_asks_nobody(react, library, refused, status):
    reply = await react(SEARCH, **refused)
    assert reply.then == End(status=status)
    assert [event.outcome for event in reply.events] == ["refused"]
    assert library.queries == []


@pytest.mark.parametrize(
    ("state", "is_last"),
    [
        ({"number": 1}, False),
        ({"number": 2, "num_searches": 1}, True),
        ({"number": 2, "max_turns": 3}, True),
        ({"number": 1, "max_turns": 3}, False),
    ],
)
async def test_words_follow_the_documents_after_which_only_an_answer_helps(react, state, is_last):
    pieces = (await react(SEARCH, **state)).then.pieces
    hint = [(piece.author, piece.before) for piece in pieces[1:]]
    assert hint == ([(Author.INJECTED, "Now.")] if is_last else [])


async def test_an_answer_counts_in_the_last_turn_and_without_retrieval(react):
    reply = await react("<answer> Paris </answer>", retrieval=False, max_turns=1)
    assert reply.then == End(status=Status.ANSWERED, answer="Paris")


async def test_a_turn_with_neither_ends_without_an_answer(react):
    assert (await react("hm")).then == End(status=Status.NO_ANSWER)


async def test_a_turn_that_was_cut_counts_for_the_answer_that_it_had_given(react):
    reply = await react("<answer> Paris </answer> and", is_cut=True)
    assert reply.then == End(status=Status.TRUNCATED, answer="Paris")
    assert (await react(SEARCH, is_cut=True)).then == End(status=Status.TRUNCATED)

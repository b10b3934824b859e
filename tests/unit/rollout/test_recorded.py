"""What a teacher played is what another model learns from, whatever its tokenizer."""

from dataclasses import replace

import pytest

from ur2.demonstrations import RecordedContext, RecordedPart
from ur2.environments.steps import StepsEnvironment
from ur2.prompts.render import PromptRenderer
from ur2.rollout.engines.chat import text_renderer
from ur2.rollout.recorded import opened_message, record, rendered
from ur2.testing.players import END, play
from ur2.types import Author, Passage

PASSAGES = (Passage(id="p1", text="Paris."),)
SEARCHING = ("Look. <search> capital </search>", "So <answer> Paris </answer>")


@pytest.fixture
def renderer(game):
    return PromptRenderer(game.tokenizer, game.prompt)


def of(author, segments):
    return [s.text for s in segments if s.author is author]


async def test_an_episode_is_rendered_back_token_for_token(game, renderer):
    played = await game.play(game.turns(*SEARCHING), game.ScriptedRetriever(passages=PASSAGES))
    message_of = opened_message(renderer, as_messages=False)
    (context,) = record(played, message_of, renderer.stop_texts)
    assert context.message == "Where?"
    assert [(s.author, s.token_ids) for s in rendered(renderer, context)] == [
        (s.author, s.token_ids) for s in played.segments
    ]


async def test_a_turn_that_ended_by_itself_ends_with_the_learners_own_end(game, renderer):
    played = await game.play(game.turns(f"I do not know.{END}"))
    (context,) = record(played, opened_message(renderer, as_messages=False), renderer.stop_texts)
    assert context.parts == (RecordedPart(author="policy", text="I do not know."),)
    assert of(Author.POLICY, rendered(renderer, context)) == [f"I do not know.{END}"]


async def test_messages_of_a_chat_endpoint_are_read_back(game, renderer):
    endpoints = text_renderer(game.prompt)
    played = await game.play(game.turns(*SEARCHING), game.ScriptedRetriever(passages=PASSAGES))
    opening = endpoints.opening('Where "is" it?\n')
    told = replace(played, segments=(opening, *played.segments[1:]))
    (context,) = record(told, opened_message(endpoints, as_messages=True))
    assert context.message == 'Where "is" it?\n'
    assert [s.token_ids for s in rendered(renderer, context)[1:]] == [
        s.token_ids for s in played.segments[1:]
    ]


async def test_steps_are_a_context_each_and_those_asked_for_again_are_not_learned(renderer):
    step = "Step 1:\nThe problem analysis: I look.\nThe retrieval query: Dune?"
    end = "Step 2:\nThe problem analysis: I know.\nThe final answer: Tacoma"
    played = await play(
        StepsEnvironment, "no heading", step, end, options={"relevance": {"by": "length"}}
    )
    message_of = opened_message(renderer, as_messages=False)
    first, second = record(played, message_of, renderer.stop_texts)
    assert [part.text for part in first.parts] == [step]
    assert [part.text for part in second.parts] == [end]
    assert second.message.startswith(f"{first.message}\nStep 1:")
    assert of(Author.POLICY, rendered(renderer, second)) == [f"{end}{END}"]


@pytest.mark.parametrize("author", ["policy", "environment"])
def test_nothing_that_a_teacher_wrote_or_read_forges_a_turn(renderer, game, author):
    context = RecordedContext(
        id="q",
        message=f"Where?{END}",
        parts=(
            RecordedPart(author=author, text=f"a {END} b"),
            RecordedPart(author="policy", text="<answer> c </answer>"),
        ),
    )
    plain = replace(
        context, message="Where?", parts=(replace(context.parts[0], text="a b"), *context.parts[1:])
    )
    end_id = game.tokenizer.encode(END)[0]
    counts = [
        sum(s.token_ids.count(end_id) for s in rendered(renderer, each))
        for each in (context, plain)
    ]
    assert counts[0] == counts[1]

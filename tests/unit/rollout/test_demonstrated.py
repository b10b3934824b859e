"""Worked examples are what the episode would have been."""

import pytest

from ur2.demonstrations import DemonstratedTurn, Demonstration
from ur2.environments.game import Game
from ur2.environments.options import EnvironmentOptions
from ur2.environments.search import SearchOptions
from ur2.errors import InputError
from ur2.prompts.render import PromptRenderer
from ur2.rollout.demonstrated import demonstrated
from ur2.types import Author, Level, Passage, Question

QUESTION = Question(id="q1", task="qa", text="Where?", answers=("Paris",), level=Level.EASY)
FOUND = (Passage(id="p1", text="Paris."),)


def demonstration(**changes) -> Demonstration:
    turns = (
        DemonstratedTurn(thought="Look.", search="capital", documents=FOUND),
        DemonstratedTurn(thought="So", answer="Paris", **changes),
    )
    return Demonstration(question=QUESTION, retrieval=True, turns=turns)


@pytest.fixture
def renderer(game):
    return PromptRenderer(game.tokenizer, game.prompt)


def of(renderer, demo, **options):
    return demonstrated(renderer, Game.load(EnvironmentOptions(**options)), demo)


async def test_a_demonstration_is_the_episode_of_a_policy_that_writes_its_turns(game, renderer):
    (segments,) = of(renderer, demonstration())
    texts = ("Look. <search> capital </search>", "So <answer> Paris </answer>")
    played = await game.play(game.turns(*texts), game.ScriptedRetriever(passages=FOUND))
    assert [(s.author, s.token_ids, s.text, s.turn) for s in segments] == [
        (s.author, s.token_ids, s.text, s.turn) for s in played.segments
    ]


def test_a_turn_that_is_not_to_be_learned_carries_no_loss(renderer):
    (segments,) = of(renderer, demonstration(learn=False))
    assert [s.author for s in segments] == [
        Author.PROMPT,
        Author.POLICY,
        Author.ENVIRONMENT,
        Author.INJECTED,
    ]


def test_an_answer_that_does_not_stop_by_itself_ends_with_the_end_of_turn(game):
    boxed = {"form": "boxed"}
    tree = game.prompt.model_dump(mode="json")
    prompt = type(game.prompt).load(
        {**tree, "protocol": {**tree["protocol"], "answer": boxed}}, where="test"
    )
    (segments,) = of(PromptRenderer(game.tokenizer, prompt), demonstration())
    assert segments[-1].text == rf"So \boxed{{Paris}}{game.END}"
    assert segments[-1].token_ids[-1] == game.tokenizer.eos_token_id


def test_steps_are_contexts_of_their_own_that_show_the_steps_before(renderer):
    first, second = of(renderer, demonstration(), name="steps")
    assert [s.author for s in (*first, *second)] == [Author.PROMPT, Author.POLICY] * 2
    assert first[1].text.startswith("Step 1:\nThe problem analysis: Look.\nThe retrieval query")
    assert "The retrieval documents: Paris." in second[0].text
    assert second[1].text.endswith("The final answer: Paris<|end|>")


def test_a_demonstration_that_breaks_the_rules_is_named(renderer):
    with pytest.raises(InputError, match=r"'q1' is over after 1 of its 2 turns"):
        of(renderer, demonstration(), search=SearchOptions(max_turns=1))


def test_an_environment_that_cannot_write_turns_has_no_demonstrations(renderer, monkeypatch):
    from ur2.environments.search import SearchEnvironment

    monkeypatch.delattr(SearchEnvironment, "written")
    with pytest.raises(InputError, match="'search' has no `written`"):
        of(renderer, demonstration())

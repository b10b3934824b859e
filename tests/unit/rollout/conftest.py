"""Scripted players of the game of search, with its budgets among the options."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from ur2.environments.base import Branch
from ur2.environments.game import Game
from ur2.environments.options import EnvironmentOptions
from ur2.environments.search import SearchOptions
from ur2.retrieval.reading.knowledge import RoutedKnowledge
from ur2.rollout.engines.base import GenerationRequest
from ur2.rollout.episode import Players
from ur2.rollout.options import SamplingOptions
from ur2.testing.players import (
    END,
    PROMPT,
    TOKENIZER,
    ScriptedEngine,
    ScriptedRetriever,
    play_scripted,
    scripted_players,
    turns,
)
from ur2.testing.records import make_assignment
from ur2.types import Trajectory


def make_players(
    engine: ScriptedEngine,
    retriever: ScriptedRetriever | None = None,
    knowledge: Any = None,
    last_turn: str | None = None,
    environment: EnvironmentOptions | None = None,
    **options: Any,
) -> Players:
    """Players of the search game, whose budgets may be given among the options."""
    searched = SearchOptions.model_fields if environment is None else ()
    own = {key: options.pop(key) for key in searched if key in options}
    return scripted_players(
        engine,
        Game.load(environment or EnvironmentOptions(search=SearchOptions(**own))),
        knowledge=knowledge or RoutedKnowledge(retriever=retriever or ScriptedRetriever(), top_k=1),
        prompt=PROMPT.model_copy(update={"last_turn": last_turn}),
        **options,
    )


async def play(
    script: Callable[[GenerationRequest], str] | ScriptedEngine,
    retriever: ScriptedRetriever | None = None,
    *,
    retrieval: bool = True,
    sampling: SamplingOptions | None = None,
    branch: Branch | None = None,
    **options: Any,
) -> Trajectory:
    engine = script if isinstance(script, ScriptedEngine) else ScriptedEngine(script)
    players = make_players(engine, retriever, **options)
    given = make_assignment(retrieval=retrieval)
    return await play_scripted(players, given, sampling=sampling, branch=branch)


@pytest.fixture
def game() -> SimpleNamespace:
    """The scripted players by name; test files cannot import a conftest."""
    return SimpleNamespace(
        ScriptedEngine=ScriptedEngine,
        ScriptedRetriever=ScriptedRetriever,
        tokenizer=TOKENIZER,
        turns=turns,
        assignment=make_assignment,
        make_players=make_players,
        play=play,
        prompt=PROMPT,
        END=END,
    )

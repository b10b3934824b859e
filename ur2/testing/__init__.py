"""Tests without a model: for our own, and for authors of environments.

Enters: an environment of anyone's, turns to play. Leaves: trajectories, and what an environment
breaks. Nothing here needs a GPU, ray or vllm.
"""

from ur2.testing.contract import check_environment
from ur2.testing.players import (
    CharacterTokenizer,
    ScriptedEngine,
    ScriptedRetriever,
    play,
    scripted_players,
    turns,
)
from ur2.testing.records import make_assignment, make_question
from ur2.testing.referee import ContractReport

__all__ = [
    "CharacterTokenizer",
    "ContractReport",
    "ScriptedEngine",
    "ScriptedRetriever",
    "check_environment",
    "make_assignment",
    "make_question",
    "play",
    "scripted_players",
    "turns",
]

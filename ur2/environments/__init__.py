"""The other side of an episode: what the policy reads, what its turns lead to, when it is over.

Enters: an assignment, the turns of a policy. Leaves: what to read next, uses of tools, the answer.
Text and values only: no token id, engine or tokenizer is known here. One file a game.
"""

from ur2.environments.base import (
    Ask,
    Branch,
    End,
    Environment,
    Piece,
    Reply,
    Services,
    Tool,
    Turn,
)
from ur2.types import ToolUse

__all__ = [
    "Ask",
    "Branch",
    "End",
    "Environment",
    "Piece",
    "Reply",
    "Services",
    "Tool",
    "ToolUse",
    "Turn",
]

"""The two sides of an episode's table: text and values only, no token ids, engine or tokenizer.

opening ─▶ Ask ─▶ the policy's turn ─▶ react ─▶ Ask ─▶ ... ─▶ End
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import Field, JsonValue

from ur2.prompts.tool_calls import CallFormat, ToolSchema
from ur2.prompts.wording import Wording
from ur2.types import Assignment, Author, Finding, Lookup, Segment, Status, ToolUse

Tokens = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Something to read. `text` is cut to fit and made harmless; `before` and `after` stay."""

    text: str = ""
    before: str = ""
    after: str = ""
    author: Literal[Author.PROMPT, Author.ENVIRONMENT, Author.INJECTED] = Author.ENVIRONMENT
    """A prompt stands in a fresh context only, where every piece is one."""
    max_tokens: Tokens | None = None
    """Tokens that the piece may take with `before` and `after`; None: any number. What the context
    cannot hold ends the episode as TRUNCATED."""
    role: Literal["", "tool"] = ""
    """`tool`: `text` is a message of that role, within what the model's chat template writes around
    it. Such pieces come first, in the order of the calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """The policy's next turn: what it reads, where it stops, how much it may write."""

    pieces: tuple[Piece, ...]
    """With `fresh`: the user's message that opens a context. Otherwise they continue the tokens
    so far."""
    stop_strings: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """The turn ends with the first of them, or with the model's own end of turn."""
    max_tokens: Tokens
    """Tokens that the policy may write in the turn."""
    fresh: bool = False
    """Begins a context, which is a training sample of its own."""
    role: str = "policy"
    """The part that is asked to play; names baselines and metrics. What continues a
    context is of the role that began it."""
    choices: tuple[str, ...] = ()
    """The turn is one of these, sampled and trained under the distribution that they leave; it ends
    with them, whatever `stop_strings` and `max_tokens` are. None may begin another."""
    tools: tuple[ToolSchema, ...] = ()
    """With `fresh`: the functions that the model's chat template shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The episode is over."""

    status: Status
    answer: str | None = None
    """The answer to grade; the environment read it, and nobody parses it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The consequences of a turn."""

    then: Ask | End
    events: tuple[ToolUse, ...] = ()
    """Uses of tools on the way."""
    reward: float = 0.0
    """The turn's own reward, beside what the rubric gives for the whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A completed turn of the policy."""

    text: str
    number: int
    """From 1."""
    events: tuple[ToolUse, ...] = ()
    """Uses of tools before this turn."""
    is_cut: bool = False
    """Its tokens ran out before it ended by itself."""
    transcript: str = ""
    """All that was written since the opening and read in between, this turn included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """Where an episode goes on from the record of another one."""

    parent: str
    """The trajectory's id."""
    segments: tuple[Segment, ...]
    """The part of its record that is kept."""
    events: tuple[ToolUse, ...]
    inject: Piece
    """The words put in the policy's mouth."""


class Environment(Protocol):
    """One episode's other side: made for it, and used once.

    An episode whose turn ran out of tokens is over, as TRUNCATED. An environment that sets
    `reads_cut_turns = True` gets to react to such turns, too. One that keeps nothing between turns,
    as a `Turn` holds all that it needs, says `is_stateless = True`; where an explorer goes on from
    the middle of an episode, the others are shown the turns before once more. One that cold starts
    can use has `written(turn) -> str`, the text of a demonstrated turn. One that asks other roles
    than `policy` names all that it asks: `roles = ("rewriter", "generator")`.
    """

    Options: ClassVar[Any]
    """The class of its options, with a default for each."""

    def __init__(self, assignment: Assignment, options: Any, services: "Services") -> None:
        """Takes the question and whether it may search, its options, and what it may call."""

    def opening(self) -> Ask:
        """The first turn."""
        ...

    async def react(self, turn: Turn) -> Reply:
        """Answers a turn; tools are awaited here, and their failures are events."""
        ...


class Tool(Protocol):
    """Something that a policy may use.

    One that must know of the episode has `for_turn(turn, question, services) -> Tool`, whose result
    is used instead.
    """

    @property
    def schema(self) -> ToolSchema:
        """Tells its name, its purpose and the arguments that it takes."""
        ...

    async def use(self, arguments: Mapping[str, JsonValue], transcript: str) -> ToolUse:
        """Uses it; returns within its own deadline, and failures as values."""
        ...


class Knowledge(Protocol):
    """Where an episode searches."""

    async def look_up(self, lookup: Lookup) -> Finding:
        """Tells what is known; returns within its own deadline, and failures as values."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The services that a worker offers to its environments."""

    knowledge: Knowledge
    wording: Wording
    """The words of the prompt's config, with its markers."""
    tools: Mapping[str, Tool] = field(default_factory=dict)
    """By name."""
    call_format: CallFormat = "hermes"
    """How the model writes calls of tools."""
    demonstrates: bool = False
    """The turns are given, and nothing is judged."""

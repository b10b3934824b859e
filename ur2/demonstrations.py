"""The records of the cold start: worked examples, before they are rendered."""

from dataclasses import dataclass
from typing import Literal

from ur2.types import Passage, Question


@dataclass(frozen=True, slots=True, kw_only=True)
class DemonstratedTurn:
    """One turn of a demonstration, independent of any protocol's markers."""

    thought: str
    search: str | None = None
    """The query, where the turn searches."""
    documents: tuple[Passage, ...] = ()
    """The results of that search."""
    answer: str | None = None
    """The final answer, where the turn ends the demonstration."""
    learn: bool = True
    """False: the turn's text is context only and carries no loss (e.g. a wrong answer)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """A worked example for the cold start."""

    question: Question
    retrieval: bool
    turns: tuple[DemonstratedTurn, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedPart:
    """A stretch of a context by one author."""

    author: Literal["policy", "environment"]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedContext:
    """One context of an episode that a teacher played, as text that any tokenizer can render."""

    id: str
    """Of the question, the attempt and the context in it."""
    message: str
    """The user's message that begins it."""
    parts: tuple[RecordedPart, ...]
    """The turns, and what was read between them."""

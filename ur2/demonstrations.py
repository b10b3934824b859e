"""The records of the cold start: worked examples, before they are rendered."""

from dataclasses import dataclass

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

"""The parts of an episode's dialect that rewards need."""

from typing import Protocol

from ur2.types import Task


class MarkerPair(Protocol):
    """An opening and a closing marker."""

    @property
    def open(self) -> str:
        """The opening one."""

    @property
    def close(self) -> str:
        """The closing one."""


class LimitPair(Protocol):
    """The searches and words per query that one episode may use."""

    @property
    def max_searches(self) -> int:
        """Searches per episode."""

    @property
    def max_query_words(self) -> int:
        """Words per query."""


class AnswerCounter(Protocol):
    """How answers of a task are marked."""

    def count(self, text: str) -> int:
        """How often the answer's markers are used, complete or not."""


class Markup(Protocol):
    """The markers, the limits and the reading of queries."""

    @property
    def search(self) -> MarkerPair:
        """Around a query."""

    @property
    def documents(self) -> MarkerPair:
        """Around documents."""

    @property
    def markers(self) -> tuple[str, ...]:
        """Every string that gives a text structure."""

    @property
    def limits(self) -> LimitPair:
        """The searches and words per query that one episode may use."""

    def answer_form(self, task: Task) -> AnswerCounter:
        """How answers of a task are marked."""

    def queries(self, text: str) -> list[str]:
        """Every complete query."""

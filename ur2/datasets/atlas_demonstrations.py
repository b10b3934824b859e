"""Worked examples for the cold start of the atlas world, in two sets.

Skills are clean, and most are about entities made up anew for one example, so that names can only
be copied, never remembered. Habits are imperfect on purpose: they give reinforcement learning
something to put right.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ur2.datasets.atlas_questions import (
    SolvedQuestion,
    city_weights,
    easy,
    hard,
    medium_of_city,
    medium_of_country,
)
from ur2.datasets.atlas_world import CONTINENTS, City, Country, World
from ur2.demonstrations import DemonstratedTurn, Demonstration
from ur2.types import Level

ItemT = TypeVar("ItemT")

KNOWN = "I know it"
LOOK_UP = "look it up"
FIRST = "first the country"
SECOND = "then the rest"
FOUND = "found it"
GIVE_UP = "no idea"
UNKNOWN_ANSWER = "unknown"

EASY_SHARE = 0.3
MEDIUM_SHARE = 0.35
DIRECT_SHARE = 0.12
"""Examples of medium and hard questions with retrieval off, answered `unknown`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """Probabilities of each imperfection; the first three exclude one another."""

    needless_search: float = 0.6
    """Easy: looks up what it knows."""
    give_up: float = 0.35
    """Gives up at once where a search would help, or on an easy question."""
    stop_early: float = 0.35
    """Hard: takes what the first look-up found for the answer."""
    bad_query: float = 0.1
    """Asks the whole question, gets what it did not need, and gives up."""
    repeat: float = 0.15
    """Makes the same look-up twice."""


class ProblemSource:
    """Draws problems about real training entities and about fictional ones."""

    def __init__(self, world: World, names: Sequence[str], rng: np.random.Generator) -> None:
        self._world = world
        self._train = world.part(held_out=False)
        self._weights = city_weights(self._train.cities)
        self._names = names
        self._rng = rng

    def draw(self, *, fictional: bool) -> SolvedQuestion:
        """A problem of any level; an easy one is always about a real country, held out or not."""
        level = self._rng.random()
        if level < EASY_SHARE:
            return self._pick(list(easy(self._pick(self._world.countries))))
        if level < EASY_SHARE + MEDIUM_SHARE:
            return self._medium(fictional=fictional)
        return self._pick(list(hard(self._city(fictional=fictional))))

    def _medium(self, *, fictional: bool) -> SolvedQuestion:
        if self._rng.random() < 0.5:
            return self._pick(list(medium_of_city(self._city(fictional=fictional))))
        country = self._fictional_country() if fictional else self._pick(self._train.countries)
        return self._pick(list(medium_of_country(country)))

    def _city(self, *, fictional: bool) -> City:
        if not fictional:
            return self._train.cities[self._rng.choice(len(self._weights), p=self._weights)]
        return City(
            id="fictional",
            name=self._name(),
            country=self._fictional_country(),
            population=f"{int(10 ** self._rng.uniform(2, 4))} thousand",
        )

    def _fictional_country(self) -> Country:
        return Country(
            code="fictional",
            name=self._name(),
            continent=self._pick(list(CONTINENTS.values())),
            capital=self._name(),
            currency=self._name().split()[0],
            phone=str(int(10 ** self._rng.uniform(0.5, 4))),
        )

    def _name(self) -> str:
        if self._rng.random() < 0.5:
            return self._pick(self._names)
        words = (self._word() for _ in range(self._rng.choice(3, p=(0.7, 0.25, 0.05)) + 1))
        return " ".join(words)

    def _word(self) -> str:
        syllables = (self._syllable() for _ in range(self._rng.integers(1, 4)))
        return ("".join(syllables) + self._pick(_CODAS)).capitalize()

    def _syllable(self) -> str:
        return self._pick(_ONSETS) + self._pick(_NUCLEI)

    def _pick(self, items: Sequence[ItemT]) -> ItemT:
        return items[int(self._rng.integers(len(items)))]


def skills(
    source: ProblemSource, rng: np.random.Generator, *, num: int, fictional_share: float
) -> Iterator[Demonstration]:
    """Clean examples: answer what is known, look up the rest, give up where search is off."""
    for _ in range(num):
        problem = source.draw(fictional=rng.random() < fictional_share)
        needs_search = problem.level is not Level.EASY
        retrieval = bool(rng.random() >= DIRECT_SHARE) if needs_search else bool(rng.random() < 0.5)
        yield _demonstration(problem, retrieval, _clean(problem, retrieval=retrieval))


def habits(
    source: ProblemSource, rng: np.random.Generator, *, num: int, chances: Habits
) -> Iterator[Demonstration]:
    """Examples about real training entities with the imperfections of `chances`."""
    for _ in range(num):
        problem = source.draw(fictional=False)
        retrieval = bool(rng.random() >= DIRECT_SHARE)
        yield _demonstration(problem, retrieval, _imperfect(problem, retrieval, rng, chances))


def _demonstration(
    problem: SolvedQuestion, retrieval: bool, turns: tuple[DemonstratedTurn, ...]
) -> Demonstration:
    return Demonstration(question=problem.to_question("demo"), retrieval=retrieval, turns=turns)


def _clean(problem: SolvedQuestion, *, retrieval: bool) -> tuple[DemonstratedTurn, ...]:
    if problem.level is Level.EASY:
        return (DemonstratedTurn(thought=KNOWN, answer=problem.answer),)
    if not retrieval:
        return _give_up()
    return (*_searches(problem), DemonstratedTurn(thought=FOUND, answer=problem.answer))


def _imperfect(
    problem: SolvedQuestion, retrieval: bool, rng: np.random.Generator, chances: Habits
) -> tuple[DemonstratedTurn, ...]:
    if rng.random() < chances.give_up:
        return _give_up()
    if not retrieval:
        return _clean(problem, retrieval=False)
    if problem.level is Level.EASY and rng.random() >= chances.needless_search:
        return _clean(problem, retrieval=True)
    searches = _searches(problem)
    if problem.level is not Level.EASY and rng.random() < chances.bad_query:
        lost = DemonstratedTurn(
            thought=LOOK_UP, search=problem.text.rstrip("?"), documents=searches[0].documents
        )
        return (lost, *_give_up())
    if problem.level is Level.HARD and rng.random() < chances.stop_early:
        country = problem.lookups[0].found
        return (searches[0], DemonstratedTurn(thought=FOUND, answer=country))
    if rng.random() < chances.repeat:
        searches = (searches[0], *searches)
    return (*searches, DemonstratedTurn(thought=FOUND, answer=problem.answer))


def _give_up() -> tuple[DemonstratedTurn, ...]:
    return (DemonstratedTurn(thought=GIVE_UP, answer=UNKNOWN_ANSWER),)


def _searches(problem: SolvedQuestion) -> tuple[DemonstratedTurn, ...]:
    thoughts = (FIRST, SECOND) if problem.level is Level.HARD else (LOOK_UP,)
    return tuple(
        DemonstratedTurn(thought=thought, search=lookup.query, documents=(lookup.passage,))
        for thought, lookup in zip(thoughts, problem.lookups, strict=True)
    )


_ONSETS: Sequence[str] = (
    *"bcdfghjklmnprstvwyz",
    "br",
    "ch",
    "dr",
    "gr",
    "kh",
    "sh",
    "st",
    "th",
    "tr",
    "",
)
_NUCLEI: Sequence[str] = ("a", "e", "i", "o", "u", "ai", "ou", "ia", "ee", "au")
_CODAS: Sequence[str] = ("", "", "n", "r", "s", "l", "t", "m", "ng", "rd", "k")

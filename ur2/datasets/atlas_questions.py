"""Problems of the atlas world: a question, the look-ups that solve it, and its answer.

Levels: easy is memory (the continent of a country, which the demonstrations teach for every
country); medium needs one look-up; hard needs two, the second about what the first one found.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ur2.datasets import atlas_world as atlas
from ur2.datasets.atlas_world import City, Country, World
from ur2.types import Level, Passage, Question


@dataclass(frozen=True, slots=True, kw_only=True)
class HelpfulSearch:
    """One search that helps: what to ask for and the passage that holds the answer."""

    query: str
    passage: Passage
    found: str
    """The answer in the passage, or the entity that the next look-up is about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SolvedQuestion:
    """A question with its solution."""

    kind: str
    subject_id: str
    level: Level
    text: str
    lookups: tuple[HelpfulSearch, ...]
    answer: str

    def to_question(self, split: str) -> Question:
        """The question record; its id depends on split, kind, subject and wording only."""
        return Question(
            id=f"{split}-{self.kind}-{self.subject_id}",
            task="qa",
            text=self.text,
            answers=(self.answer,),
            level=self.level,
            subject=self.kind.partition(".")[0],
            source="atlas",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """Something a passage states of a country."""

    name: str
    value: Callable[[Country], str]
    passage: Callable[[Country], Passage]


FACTS = (
    Fact(name="capital", value=lambda c: c.capital, passage=atlas.capital_passage),
    Fact(name="currency", value=lambda c: c.currency, passage=atlas.currency_passage),
    Fact(name="phone code", value=lambda c: c.phone, passage=atlas.phone_passage),
)

CONTINENT_WORDINGS = (
    "Which continent is {name} in?",
    "On which continent is {name}?",
    "What continent does {name} belong to?",
    "{name} is in which continent?",
    "Name the continent of {name}.",
    "What is the continent of {name}?",
    "In what continent does {name} lie?",
)


def easy(country: Country) -> Iterator[SolvedQuestion]:
    """The continent, in every wording; the one look-up there is would be needless."""
    lookup = HelpfulSearch(
        query=f"continent of {country.name}",
        passage=atlas.continent_passage(country),
        found=country.continent,
    )
    for number, wording in enumerate(CONTINENT_WORDINGS):
        yield SolvedQuestion(
            kind=f"continent.{number}",
            subject_id=country.code,
            level=Level.EASY,
            text=wording.format(name=country.name),
            lookups=(lookup,),
            answer=country.continent,
        )


def medium_of_country(country: Country) -> Iterator[SolvedQuestion]:
    """Each fact of a country."""
    for fact in FACTS:
        yield SolvedQuestion(
            kind=fact.name.replace(" ", "_"),
            subject_id=country.code,
            level=Level.MEDIUM,
            text=f"What is the {fact.name} of {country.name}?",
            lookups=(_fact_lookup(fact, country),),
            answer=fact.value(country),
        )


def medium_of_city(city: City) -> Iterator[SolvedQuestion]:
    """The country and the population of a city."""
    for kind, text, answer in (
        ("country", f"Which country is the city {city.name} in?", city.country.name),
        ("population", f"How many people live in the city {city.name}?", city.population),
    ):
        yield SolvedQuestion(
            kind=kind,
            subject_id=city.id,
            level=Level.MEDIUM,
            text=text,
            lookups=(_city_lookup(city),),
            answer=answer,
        )


def hard(city: City) -> Iterator[SolvedQuestion]:
    """Each fact of a city's country."""
    for fact in FACTS:
        yield SolvedQuestion(
            kind=f"country_{fact.name.replace(' ', '_')}",
            subject_id=city.id,
            level=Level.HARD,
            text=f"What is the {fact.name} of the country of the city {city.name}?",
            lookups=(_city_lookup(city), _fact_lookup(fact, city.country)),
            answer=fact.value(city.country),
        )


def draw_questions(
    world: World, split: str, num_per_level: int, rng: np.random.Generator
) -> list[Question]:
    """Up to `num_per_level` distinct questions of each level about what is in `world`.

    Within a level every kind gets the same share where there are enough; cities are drawn with
    weight (cities of their country)^-1/2, so that a few large countries do not rule.
    """
    cities = _spread(world.cities, rng)
    by_level: Mapping[Level, list[list[SolvedQuestion]]] = {
        Level.EASY: _by_kind(easy(c) for c in _shuffled(world.countries, rng)),
        Level.MEDIUM: _by_kind(medium_of_country(c) for c in _shuffled(world.countries, rng))
        + _by_kind(medium_of_city(c) for c in cities),
        Level.HARD: _by_kind(hard(c) for c in cities),
    }
    return [
        problem.to_question(split)
        for kinds in by_level.values()
        for problem in _round_robin(kinds, num_per_level)
    ]


def city_weights(cities: Sequence[City]) -> NDArray[np.float64]:
    """Probabilities ∝ (cities of the same country)^-1/2, (number of cities,)."""
    count = Counter(city.country.code for city in cities)
    weight = np.array([count[city.country.code] ** -0.5 for city in cities])
    return np.asarray(weight / weight.sum())


def _city_lookup(city: City) -> HelpfulSearch:
    # The encoder finds a city by what its passage states: by its bare name it finds the country's
    # passage about its capital instead.
    return HelpfulSearch(
        query=f"{city.name} city population",
        passage=atlas.city_passage(city),
        found=city.country.name,
    )


def _fact_lookup(fact: Fact, country: Country) -> HelpfulSearch:
    return HelpfulSearch(
        query=f"{fact.name} of {country.name}",
        passage=fact.passage(country),
        found=fact.value(country),
    )


def _shuffled(countries: Sequence[Country], rng: np.random.Generator) -> list[Country]:
    return [countries[i] for i in rng.permutation(len(countries))]


def _spread(cities: Sequence[City], rng: np.random.Generator) -> list[City]:
    order = rng.choice(len(cities), size=len(cities), replace=False, p=city_weights(cities))
    return [cities[i] for i in order]


def _by_kind(
    problems_of_subjects: Iterator[Iterator[SolvedQuestion]],
) -> list[list[SolvedQuestion]]:
    """One list per kind, in the order of the subjects."""
    kinds: dict[str, list[SolvedQuestion]] = {}
    for problems in problems_of_subjects:
        for problem in problems:
            kinds.setdefault(problem.kind, []).append(problem)
    return list(kinds.values())


def _round_robin(kinds: Sequence[list[SolvedQuestion]], limit: int) -> Iterator[SolvedQuestion]:
    """Takes one problem of each kind in turn; kinds of one list length run out together."""
    taken = 0
    for depth in range(max(len(kind) for kind in kinds)):
        for kind in kinds:
            if depth < len(kind) and taken < limit:
                taken += 1
                yield kind[depth]

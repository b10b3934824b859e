"""Options of the commands that make and check question files."""

import json
import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from ur2.options import Options

Count = Annotated[int, Field(ge=1)]

_NAMED = re.compile(r"-|[a-z_]+=")


class AtlasOptions(Options):
    """How much of the atlas world is written."""

    out: str = "data/atlas"
    """The folder to write."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Decides the held-out countries, the questions and the demonstrations."""
    num_cities: Count = 5000
    """The largest cities that become passages."""
    held_out_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Countries kept, with all their cities, for the test questions."""
    num_train: Count = 3000
    """Training questions, a third per level."""
    num_test_per_level: Count = 320
    """Test questions of each level, all about held-out countries and cities."""
    num_skills: Count = 17600
    """Clean demonstrations."""
    num_habits: Count = 1920
    """Demonstrations with imperfect habits."""
    num_tokenizer_texts: Count = 6000
    """Examples about fictional entities among the texts for the tokenizer."""
    fictional_share: Annotated[float, Field(ge=0, le=1)] = 0.75
    """Clean demonstrations about entities made up anew, which teach copying."""


class InspectOptions(Options):
    """The files to look at."""

    paths: Annotated[tuple[str, ...], Field(min_length=1)]
    """Question files or `hf:` names."""


class OverlapOptions(Options):
    """Which questions are compared."""

    train: str
    """Questions to learn from."""
    eval: Annotated[tuple[str, ...], Field(min_length=1)]
    """Held-out question files."""
    out: str | None = None
    """Where to write the training questions that match none; nothing is written by default."""
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Similarity of word 3-grams from which questions that share a gold are the same."""
    examples: Annotated[int, Field(ge=0)] = 5
    """Near matches to show, least similar first, and as many exact ones."""


def with_positionals(argv: Sequence[str], *keys: str) -> list[str]:
    """Turns bare arguments into `key=value`: one for each key but the last, which takes the rest.

    An argument is bare unless it begins with `-` or with a lower-case word and `=`.
    """
    bare = [argument for argument in argv if not _NAMED.match(argument)]
    named = [argument for argument in argv if _NAMED.match(argument)]
    *single, rest = keys
    firsts = dict(zip(single, bare, strict=False))
    remaining = bare[len(single) :]
    values = {**firsts, **({rest: remaining} if remaining else {})}
    return [*named, *(f"{key}={json.dumps(value)}" for key, value in values.items())]

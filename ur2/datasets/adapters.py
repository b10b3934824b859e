"""Adapters of rows that no schema of ours fits: a function of a user's, named by import path.

`PATH?adapter=package.module:name&key=value` reads a file, or a set of the hub, through one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ur2.datasets.fields import DEFAULT_LEVEL, Origin
from ur2.options import Options
from ur2.plugins import blame, find_facts, own_options

Row = Mapping[str, Any]
Adapt = Callable[[Row, Origin], Row | None]
"""The fields of a `Question` that a row stands for; None leaves the row out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFacts:
    """All that there is to know of an adapter."""

    adapt: Callable[[Row, Any], Row | None]
    """From a row and the adapter's own options to the fields of a `Question` (`id`, `task`, `text`,
    `answers`, `level`, ...); None leaves the row out."""
    options: type[Options] | None = None
    """The class of its own options, where it has some."""


def load_adapter(path: str, options: Mapping[str, Any], *, where: str) -> Adapt:
    """The adapter behind an import path.

    A row without `id` gets the file's name and its number; without `task` what the source's name
    says; without `level` the default.

    Args:
        path: `package.module:name` of an `AdapterFacts`, or of a function of a row.
        options: its own.
        where: the source, for messages.

    Raises:
        InputError: there is none, or its options do not fit.
    """
    facts = find_facts(path, {}, AdapterFacts, _of_function, key=f"{where}: adapter")
    own = own_options(facts.options, options, where=f"{where}: options of adapter '{path}'")

    def adapt(row: Row, origin: Origin) -> Row | None:
        try:
            fields = facts.adapt(row, own)
            if fields is None:
                return None
            task = {"task": origin.task} if origin.task else {}
            defaults = {"id": f"{origin.stem}-{origin.number}", "level": DEFAULT_LEVEL.value}
            return defaults | task | dict(fields)
        except Exception as error:  # someone else's code may raise whatever it likes
            raise ValueError(str(blame(f"adapter '{path}'", error))) from error

    return adapt


def _of_function(adapt: Callable[[Row], Row | None]) -> AdapterFacts:
    return AdapterFacts(adapt=lambda row, _: adapt(row))

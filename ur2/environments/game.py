"""An environment and its options, found and checked once for all the episodes of a worker."""

from collections.abc import Mapping
from dataclasses import dataclass

from ur2.environments.base import Environment, Services
from ur2.environments.options import EnvironmentOptions
from ur2.environments.search import SearchEnvironment
from ur2.environments.steps import StepsEnvironment
from ur2.environments.tools import ToolsEnvironment
from ur2.errors import InputError
from ur2.options import Options
from ur2.plugins import find
from ur2.types import Assignment

DEFAULT_ROLES: tuple[str, ...] = ("policy",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Game:
    """A maker of environments."""

    name: str
    kind: type[Environment]
    options: Options

    @classmethod
    def load(cls, options: EnvironmentOptions) -> "Game":
        """The game that options name.

        Raises:
            InputError: there is no such environment, it lacks a method, its options do not fit, or
                its `roles` are none.
        """
        kind = find(
            options.name,
            ENVIRONMENTS,
            key="environment.name",
            methods=("opening", "react", "Options"),
        )
        if options.name in ENVIRONMENTS:
            if options.options:
                raise InputError(
                    "environment.options is for an environment of your own; the options of "
                    f"'{options.name}' are those of environment.{options.name}"
                )
            return cls(name=options.name, kind=kind, options=getattr(options, options.name))
        if not (isinstance(kind.Options, type) and issubclass(kind.Options, Options)):
            raise InputError(
                f"environment.name: the Options of '{options.name}' are no subclass of "
                "ur2.options.Options"
            )
        roles_of(kind)
        own = kind.Options.load(options.options, where="environment.options")
        return cls(name=options.name, kind=kind, options=own)

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that it asks to play."""
        return roles_of(self.kind)

    def environment(self, assignment: Assignment, services: Services) -> Environment:
        """The other side of one episode."""
        return self.kind(assignment, self.options, services)


def roles_of(kind: type[Environment]) -> tuple[str, ...]:
    """The roles that an environment asks to play, as its class names them.

    Raises:
        InputError: they are no names.
    """
    roles = getattr(kind, "roles", DEFAULT_ROLES)
    if not (isinstance(roles, tuple) and roles and all(isinstance(r, str) and r for r in roles)):
        raise InputError(
            f"environment.name: `roles` of {kind.__name__} is {roles!r}; make it a tuple of the "
            'names that its Asks give, such as ("rewriter", "generator")'
        )
    return roles


ENVIRONMENTS: Mapping[str, type[Environment]] = {
    "search": SearchEnvironment,
    "steps": StepsEnvironment,
    "tools": ToolsEnvironment,
}

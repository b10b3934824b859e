"""An environment and its options, found and checked once for all the episodes of a worker."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ur2.environments.base import Ask, Environment, Reply, Services, Turn
from ur2.environments.contract import opening_breaches, reply_breaches
from ur2.environments.options import EnvironmentOptions
from ur2.environments.search import SearchEnvironment
from ur2.environments.steps import StepsEnvironment
from ur2.environments.tools import ToolsEnvironment
from ur2.errors import InputError, PluginError
from ur2.options import Options
from ur2.plugins import blaming, defined_at, find
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

    def opened(
        self, assignment: Assignment, services: Services, *, where: str
    ) -> tuple[Environment, Ask]:
        """The other side of one episode, and what it asks first.

        Raises:
            PluginError: the environment raised, or broke the contract; `where` tells in which
                episode.
        """
        with blaming(f"environment '{self.name}' {where}"):
            environment = self.environment(assignment, services)
            ask = environment.opening()
        self._refuse(opening_breaches(ask, self.roles), "opening", where)
        return environment, ask

    async def reply(
        self, environment: Environment, turn: Turn, role: str, *, within_s: float, where: str
    ) -> Reply:
        """The environment's reply to a turn that `role` wrote.

        Raises:
            PluginError: the environment raised, took longer than `within_s`, or broke the contract;
                `where` tells in which episode.
        """
        limit = asyncio.timeout(within_s)
        try:
            with blaming(f"environment '{self.name}' {where}"):
                async with limit:
                    reply = await environment.react(turn)
        except PluginError:
            if limit.expired():
                self._refuse([f"no reply within {within_s:g} s"], "react", where)
            raise
        self._refuse(reply_breaches(reply, self.roles, role), "react", where)
        return reply

    def _refuse(self, breaches: Sequence[str], method: str, where: str) -> None:
        if breaches:
            place = defined_at(getattr(self.kind, method))
            raise PluginError(f"environment '{self.name}' {where}: {'; '.join(breaches)}{place}")


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

"""Whether options name the roles that there are, and one of them learns."""

from collections.abc import Iterator

from ur2.config.schema import RunOptions


def role_problems(options: RunOptions, roles: tuple[str, ...]) -> Iterator[str]:
    """The faults of options that name roles, as messages.

    Args:
        options: of a run.
        roles: those that its environment asks to play.
    """
    frozen = options.algorithm.frozen_roles
    asked = f"environment '{options.environment.name}' asks {', '.join(roles)}"
    if unknown := [role for role in frozen if role not in roles]:
        yield f"algorithm.frozen_roles: no role is called {', '.join(unknown)}; {asked}"
    if set(roles) <= set(frozen):
        yield f"algorithm.frozen_roles leaves nothing to train; {asked}"

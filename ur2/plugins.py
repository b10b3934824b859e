"""What users add: `package.module:Name` stands wherever the name of a built-in may stand."""

import importlib
from collections.abc import Mapping, Sequence
from typing import TypeVar

from ur2.errors import InputError
from ur2.options import nearest

T = TypeVar("T")


def find(name: str, known: Mapping[str, T], *, key: str, methods: Sequence[str] = ()) -> T:
    """What `name` stands for: an entry of `known`, or what an import path leads to.

    Args:
        name: a key of `known`, or `package.module:Name`.
        known: what ur2 itself offers.
        key: the option that holds the name, for messages.
        methods: what an imported object must have.

    Raises:
        InputError: nothing has that name, the module cannot be imported, or a method is missing.
    """
    if name in known:
        return known[name]
    module_name, colon, attribute = name.partition(":")
    if not colon:
        raise InputError(
            f"{key}: '{name}' is unknown ({nearest(name, sorted(known))}); one of your own is "
            "named package.module:Name"
        )
    try:
        found: T = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # a module of someone else's may raise whatever it likes
        raise InputError(
            f"{key}: '{name}' cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if missing := [method for method in methods if not callable(getattr(found, method, None))]:
        raise InputError(f"{key}: '{name}' has no {', '.join(missing)}")
    return found

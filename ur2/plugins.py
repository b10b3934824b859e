"""Import paths: `package.module:Name` stands wherever the name of a built-in may stand."""

import importlib
import importlib.util
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from ur2.errors import InputError, PluginError, Ur2Error
from ur2.options import Options, nearest

T = TypeVar("T")
IMPORT_PATH = re.compile(r"(?:^|[?&]adapter=)([A-Za-z_]\w*)(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?:&|$)")
"""An option's value that names something of a user's, or a source that is read through one."""


def find(name: str, known: Mapping[str, T], *, key: str, methods: Sequence[str] = ()) -> T:
    """Looks a name up: an entry of `known`, or what an import path leads to.

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
        hint = f" ({nearest(name, sorted(known))})" if known else ""
        raise InputError(
            f"{key}: '{name}' is unknown{hint}; one of your own is named package.module:Name"
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


def find_facts(
    name: str, known: Mapping[str, T], kind: type[T], of_function: Callable[[Any], T], *, key: str
) -> T:
    """The entry of a fact table that `name` stands for, ours or a user's.

    Args:
        name: a key of `known`, or an import path of a `kind` or of a plain function.
        known: the table.
        kind: the class of its entries.
        of_function: makes an entry of a plain function.
        key: the option that holds the name, for messages.

    Raises:
        InputError: as `find`, or the path leads to something else.
    """
    found: Any = find(name, known, key=key)
    if isinstance(found, kind):
        return found
    if callable(found) and not isinstance(found, type):
        return of_function(found)
    raise InputError(f"{key}: '{name}' is neither a {kind.__name__} nor a function")


def own_options(model: type[Options] | None, tree: Mapping[str, Any], *, where: str) -> Any:
    """The options of one plug-in, checked as strictly as ours; None where it has none.

    Raises:
        InputError: they do not fit, or there are some where there should be none.
    """
    if model is not None:
        return model.load(tree, where=where)
    if tree:
        raise InputError(f"{where}: there are no such options; remove {', '.join(sorted(tree))}")
    return None


def packages_in(tree: Any) -> Iterator[str]:
    """The top-level packages of all import paths in a tree of options; a name may come twice."""
    if isinstance(tree, Mapping):
        tree = list(tree.values())
    if isinstance(tree, str):
        yield from IMPORT_PATH.findall(tree)
    elif isinstance(tree, Sequence):
        for value in tree:
            yield from packages_in(value)


def package_files(name: str) -> dict[str, Path]:
    """The sources and configs of a top-level package, by their names in it; none if it is not here.

    Nothing of it is imported.
    """
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module that was made by hand
        return {}
    if spec is None:
        return {}
    if spec.submodule_search_locations is None:
        return {name: Path(spec.origin)} if spec.origin and spec.has_location else {}
    return {
        str(file.relative_to(folder)): file
        for folder in spec.submodule_search_locations
        for pattern in ("**/*.py", "**/*.yaml")
        for file in Path(folder).glob(pattern)
    }


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """Names what a user brought where that raises; an error of ours stays as clear as it is.

    Raises:
        PluginError: see `blame`.
    """
    try:
        yield
    except Ur2Error:
        raise
    except Exception as error:  # someone else's code may raise whatever it likes
        raise blame(what, error) from error


def blame(what: str, error: Exception) -> PluginError:
    """The failure of something that a user brought, with the place where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return PluginError(f"{what}: {type(error).__name__}: {error}{place}")

"""Import paths: `package.module:Name` stands wherever the name of a built-in may stand."""

import asyncio
import importlib
import importlib.util
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ur2.errors import InputError, PluginError, Ur2Error
from ur2.options import Options, nearest

T = TypeVar("T")
IMPORT_PATH = re.compile(r"(?:^|[?&]adapter=)([A-Za-z_]\w*)(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?:&|$)")
"""An option's value that names something of a user's, or a source that is read through one."""
MAX_REASON_CHARS = 500
"""Characters of a message that someone else's code gave."""


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
    except (Exception, SystemExit) as error:  # a module of someone else's may do whatever it likes
        raise InputError(f"{key}: '{name}' cannot be imported: {reason(error)}") from error
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


class Blaming:
    """A context that names what a user brought where that raises; see `blaming`.

    A class, since scoring enters it several times for each trajectory.
    """

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        """Nothing is to be prepared."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Raises a PluginError in the place of what is not ours."""
        if error is None or isinstance(error, Ur2Error):
            return
        is_ours = isinstance(error, asyncio.CancelledError) and _is_cancelled()
        if not is_ours and isinstance(error, Exception | SystemExit | asyncio.CancelledError):
            raise blame(self._what, error) from error


def blaming(what: str) -> Blaming:
    """Names what a user brought where that raises; an error of ours stays as clear as it is.

    An exit is a failure, too, and so is a cancellation that nobody asked for.

    Raises:
        PluginError: see `blame`.
    """
    return Blaming(what)


def _is_cancelled() -> bool:
    """Whether the running task was asked to end."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no loop
        return False
    return task is not None and task.cancelling() > 0


def blame(what: str, error: BaseException) -> PluginError:
    """The failure of something that a user brought, with the place in their package."""
    frames = [
        (str(frame.f_globals.get("__name__")).partition(".")[0], frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    theirs = next((package for package, *_ in frames if package != "ur2"), "ur2")
    places = [_place(file, line) for package, file, line in frames if package == theirs]
    return PluginError(f"{what}: {reason(error)}{places[-1] if places else ''}")


def defined_at(function: Any) -> str:
    """The place where a function begins, as `blame` tells places; empty where it has none."""
    code = getattr(function, "__code__", None)
    return "" if code is None else _place(code.co_filename, code.co_firstlineno)


def _place(file: str, line: int) -> str:
    return f" ({Path(file).name}, line {line})"


def reason(error: BaseException) -> str:
    """Names an error in one line, cut to `MAX_REASON_CHARS`; of a group, its first error."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    try:
        text = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 someone else's error may not even have a text
        text = ""
    told = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return told if len(told) <= MAX_REASON_CHARS else f"{told[:MAX_REASON_CHARS]} ..."

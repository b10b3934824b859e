"""Work that a kill may interrupt: where it is kept until it is complete, and its progress bar."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from ur2.errors import ComponentError
from ur2.locks import locked


@contextmanager
def writing(what: Path) -> Iterator[None]:
    """Turns a disk that is full, or the like, into the one error to show.

    Raises:
        ComponentError: `what` could not be written.
    """
    try:
        yield
    except OSError as error:
        raise ComponentError(
            f"{what} could not be written ({error}); what is done is kept: see to it that it "
            "can be, and the same command goes on"
        ) from error


@contextmanager
def work_folder(out: Path) -> Iterator[Path]:
    """The folder beside `out` where it is being made, for this process alone.

    Raises:
        InputError: as `locked`.
        ComponentError: as `writing`.
    """
    folder = out.absolute().with_name(f".{out.name}.partial")
    with locked(folder, of=str(out)):
        try:
            with writing(out):
                yield folder
        except KeyboardInterrupt:
            note = f"what is done of {out} is kept; the same command goes on"
            Console(stderr=True, highlight=False).print(note, soft_wrap=True)
            raise


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a small file so that a kill leaves either the old or the whole of the new one."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def progress_bar(unit: str = "") -> Progress:
    """A bar on stderr; `unit` names what is counted, where that is not bytes."""
    counted = MofNCompleteColumn() if unit else TaskProgressColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), counted, TextColumn(unit))
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))

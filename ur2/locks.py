"""A folder for one process at a time, also where nodes share it."""

import contextlib
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ur2.errors import InputError

LOCK_FILE = ".lock"


@contextmanager
def locked(folder: Path, *, of: str, else_do: str = "wait for it, or end it") -> Iterator[None]:
    """Makes a folder this process's alone, until it leaves it or ends.

    A file is locked, not the folder, which NFS cannot lock.

    Args:
        folder: is made where it is not there.
        of: for what it is.
        else_do: what to do who meets another process.

    Raises:
        InputError: another process has it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK_FILE).open("w")
    except OSError as error:
        raise InputError(f"{of} cannot be written ({folder}: {error.strerror})") from error
    with lock:
        with contextlib.suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(f"another process is at work on {of}: {else_do}") from error
        yield

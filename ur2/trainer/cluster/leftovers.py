"""Files that outlive whoever is killed: each has an owner's lock, and the next to come removes it.

A lock ends with its process, however that ends, and is seen across containers, which process ids
are not.
"""

import contextlib
import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import psutil

SHARED_MEMORY = Path("/dev/shm")
FOLDER_PREFIX = f"ur2-weights-{socket.gethostname()}_"
"""A prefix for this node only: on a shared file system locks may not reach the others."""
NOTES_PREFIX = "ur2-engine-"
LOCK = "owner"


class OwnedFolder:
    """A folder of this process."""

    def __init__(self, base: Path) -> None:
        """Makes it in `base`, where what owners that are gone left is removed."""
        remove_leftovers(base)
        self.path = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=base))
        self._lock = (self.path / LOCK).open("w")
        _own(self._lock)

    def remove(self) -> None:
        """Ends it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


class Notes:
    """Says, until it is closed, which shared memory goes when this process is gone."""

    def __init__(self, paths: Sequence[Path], base: Path = SHARED_MEMORY) -> None:
        """Notes `paths` in `base`."""
        self._paths = paths
        self._file = tempfile.NamedTemporaryFile("w", prefix=NOTES_PREFIX, dir=base)  # noqa: SIM115
        _own(self._file)
        self._file.write("\n".join(map(str, paths)))
        self._file.flush()

    def close(self) -> None:
        """Removes what is still there, as vllm's CPU build leaves some, and takes the note back."""
        for path in self._paths:
            path.unlink(missing_ok=True)
        self._file.close()


def shared_memory_in_use() -> list[Path]:
    """Files in shared memory that this process and its children have mapped, by whatever name."""
    me = psutil.Process()
    mapped = {
        inode
        for process in (me, *me.children(recursive=True))
        for inode in _mapped_shared_memory(process.pid)
    }
    with os.scandir(SHARED_MEMORY) as files:
        return sorted(Path(file) for file in files if file.inode() in mapped)


def _mapped_shared_memory(pid: int) -> Iterator[int]:
    """Inodes: semaphores are mapped before they get the name that lasts."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
        for region in Path(f"/proc/{pid}/maps").read_text().splitlines():
            _, _, _, _, inode, *path = region.split(maxsplit=5)
            if path and path[0].startswith(f"{SHARED_MEMORY}/"):
                yield int(inode)


def remove_leftovers(base: Path = SHARED_MEMORY) -> None:
    """Removes what owners that were killed left in `base`: weights, and engines' buffers."""
    for folder in base.glob(f"{FOLDER_PREFIX}*"):
        if _is_ownerless(folder / LOCK):
            shutil.rmtree(folder, ignore_errors=True)
    for notes in base.glob(f"{NOTES_PREFIX}*"):
        if _is_ownerless(notes):
            for path in notes.read_text().splitlines():
                Path(path).unlink(missing_ok=True)
            notes.unlink(missing_ok=True)


def _own(file: IO[str]) -> None:
    with contextlib.suppress(OSError):  # a file system without locks, where what is left stays
        fcntl.flock(file, fcntl.LOCK_EX)


def _is_ownerless(path: Path) -> bool:
    """Whether the owner is gone for certain."""
    try:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, another user's, gone already, or on a file system without locks
        return False
    return True

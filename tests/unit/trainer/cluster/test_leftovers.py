"""What is left by processes that are killed, and what is not."""

import contextlib
import mmap
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ur2.trainer.cluster.leftovers import (
    SHARED_MEMORY,
    Notes,
    OwnedFolder,
    remove_leftovers,
    shared_memory_in_use,
)

OWNER = """
import sys, mmap, time
from pathlib import Path
from ur2.trainer.cluster.leftovers import Notes, OwnedFolder, shared_memory_in_use
base, buffer = map(Path, sys.argv[1:])
file = buffer.open("w+b")
file.truncate(4096)
mapped = mmap.mmap(file.fileno(), 4096)
folder = OwnedFolder(base)
(folder.path / "v000001").mkdir()
(folder.path / "v000001" / "weights").write_text("x")
assert buffer in shared_memory_in_use()
notes = Notes([buffer], base)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def buffer() -> Iterator[Path]:
    """A name in shared memory."""
    path = SHARED_MEMORY / f"ur2-test-{uuid.uuid4().hex}"
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def owner(tmp_path: Path, buffer: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process with a folder, a note and a buffer."""
    words = [sys.executable, "-c", OWNER, str(tmp_path), str(buffer)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_what_a_living_process_owns_stays_and_goes_with_it(
    tmp_path: Path, buffer: Path, owner: "subprocess.Popen[str]"
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert len(before) == 5  # the folder, its lock, weights in a folder, the note
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    assert buffer.exists()

    owner.kill()
    owner.wait()
    assert buffer.exists()
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert not buffer.exists()


def test_an_owner_that_ends_well_leaves_nothing(tmp_path: Path, buffer: Path) -> None:
    folder, notes = OwnedFolder(tmp_path), Notes([buffer], tmp_path)
    buffer.touch()
    assert folder.path.is_dir()
    folder.remove()
    notes.close()
    assert list(tmp_path.iterdir()) == []
    assert not buffer.exists()


def test_a_buffer_that_got_its_name_after_it_was_mapped_is_in_use(buffer: Path) -> None:
    """As semaphores do."""
    before = buffer.with_name(f"{buffer.name}-before")
    with before.open("w+b") as file:
        file.truncate(4096)
        with mmap.mmap(file.fileno(), 4096):
            buffer.hardlink_to(before)
            before.unlink()
            assert buffer in shared_memory_in_use()
    assert buffer not in shared_memory_in_use()


def test_folders_of_other_nodes_are_not_ours_to_judge(tmp_path: Path) -> None:
    elsewhere = tmp_path / "ur2-weights-another.node_abc"
    elsewhere.mkdir()
    (elsewhere / "owner").write_text("")
    remove_leftovers(tmp_path)
    assert elsewhere.exists()

import subprocess
import sys
from pathlib import Path

import pytest

from ur2.errors import InputError
from ur2.locks import locked

HOLDER = """
import sys, time
from pathlib import Path
from ur2.locks import locked
with locked(Path(sys.argv[1]), of="it"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_folder_belongs_to_one_process_at_a_time_and_is_free_when_that_is_killed(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "new" / "run"
    words = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(InputError, match="another process is at work on it: go"),
            locked(folder, of="it", else_do="go"),
        ):
            pass
        holder.kill()
        holder.wait()
    with locked(folder, of="it"):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match=r"it cannot be written .*file/run"),
        locked(tmp_path / "file/run", of="it"),
    ):
        pass

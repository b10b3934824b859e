"""scripts/setup.sh with a stand-in for Python, whose pip takes its time."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAND_IN = """#!/bin/sh
echo "$*" >>"{log}"
case "$*" in
  *version_info*) exit {wrong_version};;
  --version) echo Python 3;;
  "-m pip --version") [ -e "{log}.pip" ];;
  "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python && touch "{log}.pip";;
  *"install"*"-e ."*) exec {python} -ISc '
import sys, time
try:
    open("{log}.up", "w").close()
    time.sleep(float(sys.argv[1]))
except KeyboardInterrupt:
    sys.exit(1)' "$PIP_S"
esac
"""


class Clone:
    """A folder with the script and a stand-in interpreter."""

    def __init__(self, root: Path) -> None:
        self.path = root / "my clone"
        (self.path / "scripts").mkdir(parents=True)
        shutil.copy(ROOT / "scripts/setup.sh", self.path / "scripts")
        for name in ("pyproject.toml", "constraints.txt"):
            (self.path / name).touch()
        self.log = root / "calls"
        self.log.touch()
        self.stamp = self.path / ".venv/ur2-setup"

    def python(self, *, wrong_version: int = 0) -> Path:
        path = self.path / "python"
        text = STAND_IN.format(log=self.log, wrong_version=wrong_version, python=sys.executable)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def setup(self, python: Path, *, pip_s: int = 0) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            ["bash", str(self.path / "scripts/setup.sh")],
            env={**os.environ, "PYTHON": str(python), "UR2_BUILD": "cpu", "PIP_S": str(pip_s)},
            cwd="/",
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_an_interrupted_installation_does_not_settle_for_the_slower_engine(clone: Clone) -> None:
    running = clone.setup(clone.python(), pip_s=30)
    while not clone.log.with_name("calls.up").exists():
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGINT)
    _, said = running.communicate(timeout=20)
    assert (running.returncode, "interrupted" in said) == (130, True)
    assert "faiss" not in clone.log.read_text()
    assert not clone.stamp.exists()
    again = clone.setup(clone.python())
    assert again.wait(timeout=20) == 0
    assert clone.stamp.read_text().splitlines()[1] == "vllm"


def test_an_environment_that_was_half_made_is_completed(clone: Clone) -> None:
    python = clone.python()
    (clone.path / ".venv/bin").mkdir(parents=True)
    shutil.copy(python, clone.path / ".venv/bin/python")  # and no pip
    assert clone.setup(python).wait(timeout=20) == 0
    assert "-m venv .venv" in clone.log.read_text()


@pytest.mark.parametrize("where", ["PYTHON", ".venv"])
def test_another_python_is_refused_before_anything_is_made(clone: Clone, where: str) -> None:
    wrong = clone.python(wrong_version=1)
    if where == ".venv":
        (clone.path / ".venv/bin").mkdir(parents=True)
        shutil.move(wrong, clone.path / ".venv/bin/python")
        wrong = clone.python()
    running = clone.setup(wrong)
    _, said = running.communicate(timeout=20)
    assert running.returncode == 2
    assert "3.11 or 3.12" in said
    assert where in said
    assert "venv" not in clone.log.read_text()

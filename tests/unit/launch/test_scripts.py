"""The launch scripts, with an interpreter that only shows its words."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[3] / "scripts"
SHOW = "#!{python}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a script with words and variables, in an empty folder."""
    show = tmp_path / "show"
    show.write_text(SHOW.format(python=sys.executable))
    show.chmod(0o755)

    def run(name: str, *words: str, **env: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["bash", str(SCRIPTS / name), *words],
            cwd=tmp_path,
            env={**os.environ, "UR2_PYTHON": str(show), **env},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def words(done: "subprocess.CompletedProcess[str]") -> list[str]:
    assert done.returncode == 0, done.stderr
    given: list[str] = json.loads(done.stdout)
    return given


@pytest.mark.parametrize(
    "text", ["a\nb\n", "a\r\nb\r\n", "# nodes\n\n a slots=8  # head\nb", "a\n\n\tb\n"]
)
def test_hosts_are_the_first_word_of_each_line(run: Run, tmp_path: Path, text: str) -> None:
    (tmp_path / "hosts.txt").write_bytes(text.encode())
    more = ["+experiment=x", "model.path='my model'", "launch.ports=[7000, 8000]", "a=$HOME"]
    done = run("launch_ssh.sh", "hosts.txt", *more)
    assert words(done) == ["-m", "ur2.launch", 'launch.hosts=["a","b"]', *more]


@pytest.mark.parametrize("hosts", ["a,b", "a, b", "a,b,"])
def test_hosts_may_be_a_variable(run: Run, hosts: str) -> None:
    given = words(run("launch_ssh.sh", "+e=x", HOSTS=hosts))
    assert given[2:] == ['launch.hosts=["a","b"]', "+e=x"]


def test_no_host_is_one_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "hosts.txt").write_text("# none yet\n\n")
    done = run("launch_ssh.sh", "hosts.txt", "+experiment=x")
    assert done.returncode == 2
    assert "hosts.txt" in done.stderr
    assert "names no host" in done.stderr
    assert run("launch_ssh.sh", "+experiment=x", HOSTS=" ,").returncode == 2


def test_a_job_gets_its_address_and_words_as_they_were(run: Run) -> None:
    more = ["+experiment=x", "model.path='a b'", "dataset.train=[a, b]"]
    done = run("launch_ray_job.sh", "http://head:8265", *more)
    assert words(done) == ["-m", "ur2.launch.job", "job.address=http://head:8265", *more]


@pytest.mark.parametrize(
    ("name", "given"),
    [("launch_ssh.sh", {"HOSTS": "a"}), ("launch_ray_job.sh", {}), ("launch_slurm.sh", {})],
)
def test_a_missing_interpreter_says_how_to_get_one(
    run: Run, tmp_path: Path, name: str, given: dict[str, str]
) -> None:
    shim = tmp_path / "scontrol"
    shim.write_text("#!/bin/sh\necho a\n")
    shim.chmod(0o755)
    slurm = {
        "SLURM_JOB_NODELIST": "a",
        "SLURM_SUBMIT_DIR": str(SCRIPTS.parent),
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }
    done = run(name, "http://head:8265", UR2_PYTHON="/nowhere/python", **given, **slurm)
    assert done.returncode == 2
    assert "scripts/setup.sh" in done.stderr

"""Launches on two nodes that are this machine twice: real ray, real runs; ssh and SLURM by shims.

Each node has a folder of its own in place of the repository's, with the same code.
"""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
TIMEOUT_S = 600
NUM_WORKER_PORTS = 40
NUM_PORTS = NUM_WORKER_PORTS + 10
REMOTE = """#!/usr/bin/env bash
# Runs a command as {name} would on a node: in a bare environment, in that node's folder.
{find_host}
exec env -i PATH=/usr/bin:/bin HOME="$HOME" OMP_NUM_THREADS=1 $(cat "$NODES/$host/env") \\
  sh -c "${{line//$NODES\\/a/$NODES/$host}}"
"""
SSH = REMOTE.format(
    name="ssh",
    find_host="""while [[ $1 == -* ]]; do shift 2; done
host=$1 line=$2
[ -d "$NODES/$host" ] || { echo "ssh: Could not resolve hostname $host" >&2; exit 255; }""",
)
SRUN = REMOTE.format(
    name="srun",
    find_host="""for line; do case $line in --nodelist=*) host=${line#*=} ;; esac; done""",
)
SCONTROL = """#!/usr/bin/env bash
case $1 in
  show) tr , '\\n' <<<"$3" ;;
  requeue) echo "$2" >"$NODES/requeued" ;;
esac
"""
needs_jobs = pytest.mark.skipif(
    importlib.util.find_spec("aiohttp_cors") is None, reason="needs ray[default], not ray alone"
)


class Nodes:
    """Two nodes, `a` and `b`, and launches on them from `a`."""

    def __init__(self, folder: Path, model: str) -> None:
        self.folder = folder
        self.run_dir = folder / "run"
        self.model = model
        self.port = free_ports(2 * NUM_PORTS + 1)
        self.ray_dir = tempfile.mkdtemp(prefix="ur2-", dir="/tmp")  # sockets want short paths
        for host in "ab":
            node = folder / host
            node.mkdir()
            for name in ("ur2", "configs", "scripts", "data"):
                (node / name).symlink_to(ROOT / name)
            (node / ".venv").symlink_to(sys.prefix)
            (node / "env").write_text("")
        shims = folder / "bin"
        shims.mkdir()
        for name, text in {"ssh": SSH, "srun": SRUN, "scontrol": SCONTROL}.items():
            (shims / name).write_text(text)
            (shims / name).chmod(0o755)
        self.env = {
            **os.environ,
            "PATH": f"{shims}:{os.environ['PATH']}",
            "NODES": str(folder),
            "HOSTS": "a,b",
        }

    def overrides(self, *more: str) -> list[str]:
        return [
            "+experiment=smoke",
            "engine=hf",
            "dataset.eval=null",
            f"model.path={self.model}",
            f"run_dir={self.run_dir}",
            f"cluster.weights_dir={self.folder}/weights",
            *more,
        ]

    def launch(self, script: str, *more: str, **env: str) -> "subprocess.Popen[str]":
        """Starts a launch with the smoke run's words and more."""
        words = [
            f"launch.ports=[{self.port},{self.port + NUM_PORTS}]",
            f"launch.num_worker_ports={NUM_WORKER_PORTS}",
            f"launch.dashboard_port={self.port + 2 * NUM_PORTS}",
            f"launch.temp_dir={self.ray_dir}",
        ]
        return self.start("bash", f"scripts/{script}", *words, *self.overrides(*more), **env)

    def start(self, *command: str, cwd: str = "", **env: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            command,
            cwd=cwd or self.folder / "a",
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def stop_after(self, step: int, run: "subprocess.Popen[str]", number: signal.Signals) -> None:
        """Sends a signal when a step's checkpoint is there and the next step runs."""
        checkpoint = self.run_dir / f"checkpoints/step_{step:06d}"
        wait_until(lambda: checkpoint.exists() or run.poll() is not None)
        run.send_signal(number)

    def steps(self) -> list[int]:
        lines = (self.run_dir / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["step"] for line in lines]

    def processes(self) -> list[str]:
        """What runs in a node's folder, or with ray's."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                line = " ".join(process.cmdline())
                if process.cwd().startswith(f"{self.folder}/") or self.ray_dir in line:
                    found.append(line)
        return found


def free_ports(number: int) -> int:
    """The first of as many free ports in a row."""
    for first in range(20_000 + os.getpid() % 5_000, 32_000, number):
        with contextlib.ExitStack() as held:
            try:
                for port in range(first, first + number):
                    held.enter_context(socket.create_server(("", port)))
            except OSError:
                continue
            return first
    raise AssertionError("no free ports")


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def finish(run: "subprocess.Popen[str]", expected: int) -> str:
    output, _ = run.communicate(timeout=TIMEOUT_S)
    assert run.returncode == expected, output
    return output


@pytest.fixture
def nodes(tmp_path: Path, tiny_model: str) -> Iterator[Nodes]:
    made = Nodes(tmp_path, tiny_model)
    yield made
    shutil.rmtree(made.ray_dir, ignore_errors=True)


@pytest.mark.parametrize("tiny_model", [False], indirect=True)
def test_a_run_is_stopped_requeued_and_finished_and_leaves_no_process(nodes: Nodes) -> None:
    slurm = {"SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "a,b", "SLURM_SUBMIT_DIR": "."}
    steps = "trainer.steps=3"

    run = nodes.launch("launch_slurm.sh", steps, **slurm)
    nodes.stop_after(1, run, signal.SIGUSR1)
    output = finish(run, 130)
    assert "continue with run_dir=" in output
    assert (nodes.folder / "requeued").read_text() == "17\n"
    assert nodes.processes() == []

    run = nodes.launch("launch_slurm.sh", steps, "resume=none", **slurm, SLURM_RESTART_COUNT="1")
    output = finish(run, 0)
    assert nodes.steps() == [1, 2, 3]
    assert (nodes.run_dir / "summary.json").exists()
    assert nodes.processes() == []


def take_a_port(nodes: Nodes) -> contextlib.AbstractContextManager[object]:
    return socket.create_server(("", nodes.port + 2))


def change_a_version(nodes: Nodes) -> contextlib.AbstractContextManager[object]:
    other = nodes.folder / "other" / "deepspeed-9.9.9.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: deepspeed\nVersion: 9.9.9\n")
    (nodes.folder / "b" / "env").write_text(f"PYTHONPATH={other.parent}")
    return contextlib.nullcontext()


def leave_out_a_file(nodes: Nodes) -> contextlib.AbstractContextManager[object]:
    (nodes.folder / "a" / "own.jsonl").write_text("{}")
    return contextlib.nullcontext()


def nothing(_: Nodes) -> contextlib.AbstractContextManager[object]:
    return contextlib.nullcontext()


@pytest.mark.parametrize("tiny_model", [False], indirect=True)
@pytest.mark.parametrize(
    ("damage", "words", "named"),
    [
        (take_a_port, [], ["port", "is taken", "launch.ports"]),
        (change_a_version, [], ["deepspeed is 9.9.9", "scripts/setup.sh"]),
        (leave_out_a_file, ["dataset.train=own.jsonl"], ["dataset.train", "does not exist there"]),
        (
            nothing,
            ["cluster.weights_dir=weights"],
            ["cluster.weights_dir", "not the head's folder"],
        ),
        (
            nothing,
            ['launch.hosts=["a","c"]'],
            ["c", "Could not resolve hostname", "make this start"],
        ),
    ],
    ids=["port", "version", "path", "not shared", "host"],
)
def test_nodes_that_do_not_fit_are_named_and_nothing_starts(
    nodes: Nodes,
    damage: Callable[[Nodes], contextlib.AbstractContextManager[object]],
    words: list[str],
    named: list[str],
) -> None:
    with damage(nodes):
        output = finish(nodes.launch("launch_ssh.sh", *words, COLUMNS="200"), 2)
    for text in named:
        assert text in output
    assert not nodes.run_dir.joinpath("config.yaml").exists()
    assert list(Path(nodes.ray_dir).iterdir()) == []
    assert nodes.processes() == []
    assert not list(nodes.folder.rglob(".ur2-preflight-*"))


@needs_jobs
@pytest.mark.parametrize("tiny_model", [False], indirect=True)
def test_a_ray_job_is_checked_followed_and_stopped_with_a_checkpoint(nodes: Nodes) -> None:
    url = f"http://127.0.0.1:{nodes.port + 1}"
    ports = [f"--port={nodes.port}", f"--dashboard-port={nodes.port + 1}"]
    ports += [f"--dashboard-agent-listen-port={nodes.port + 2}"]
    head = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *ports]
    head += [f"--temp-dir={nodes.ray_dir}", "--object-store-memory=200000000"]
    token = {"RAY_AUTH_MODE": "disabled"}
    ray = nodes.start(*head, cwd="/", **token)
    try:
        wait_until(lambda: takes_jobs(url) or ray.poll() is not None)
        # a stop reaches all children of a job, wandb's server too, whose end is then an error
        words = nodes.overrides("trainer.trackers=[]", "trainer.steps=300")
        run = nodes.start("bash", "scripts/launch_ray_job.sh", url, *words, **token)
        nodes.stop_after(1, run, signal.SIGINT)
        output = finish(run, 130)
        assert "continue with run_dir=" in output
        missing = nodes.overrides("cluster.weights_dir=/proc/none")
        output = finish(nodes.start("bash", "scripts/launch_ray_job.sh", url, *missing, **token), 2)
        assert "cluster.weights_dir" in output
    finally:
        ray.terminate()
        ray.communicate(timeout=TIMEOUT_S)


def takes_jobs(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/api/version", trust_env=False).is_success
    return False

"""The agent as a process: it ends what it started, whatever ends it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ur2.launch.agent import REPLY

LEAVES_A_SERVER = """
import os, subprocess, sys
child = subprocess.Popen(
    [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True, env={}
)
print("started", child.pid)
"""
SLOW_TO_STOP = """
import signal, sys, time
def save(*_):
    with open(sys.argv[1], "a") as file:
        file.write("saved")
    time.sleep(0.5)
    sys.exit(130)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(600)
"""


class Held:
    """An agent and the other end of its stdin."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ur2.launch.agent"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def tell(self, do: str, **request: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self.process.stdin.flush()

    def ask(self, do: str, **request: Any) -> Any:
        self.tell(do, **request)
        line = self.line()
        assert line.startswith(REPLY)
        return json.loads(line.removeprefix(REPLY))["answer"]

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def hello(self, *, quiet: bool = False) -> None:
        request = {"mark": "m", "env": {"UR2_TEST": "1"}, "patience_s": 5.0, "quiet": quiet}
        self.tell("hello", **request) if quiet else self.ask("hello", **request)

    def start_server(self) -> int:
        started = self.ask("start", arguments=["-c", LEAVES_A_SERVER], outlive={}, timeout_s=20)
        assert started["code"] == 0
        return int(started["output"].split()[-1])


@pytest.fixture
def agent() -> Iterator[Held]:
    held = Held()
    yield held
    with contextlib.suppress(ProcessLookupError):
        os.kill(held.process.pid, signal.SIGKILL)
    held.process.wait()


def close_input(agent: Held) -> None:
    assert agent.process.stdin is not None
    agent.process.stdin.close()


@pytest.mark.parametrize(
    "end",
    [
        lambda agent: agent.tell("stop"),
        close_input,
        lambda agent: agent.process.send_signal(signal.SIGTERM),
        lambda agent: agent.process.send_signal(signal.SIGHUP),
    ],
    ids=["told to stop", "launcher gone", "SIGTERM", "SIGHUP"],
)
def test_servers_end_with_the_agent(agent: Held, end: Callable[[Held], None]) -> None:
    """Though the server has a session of its own, no parent, and none of the agent's variables."""
    agent.hello()
    server = agent.start_server()
    assert psutil.pid_exists(server)
    end(agent)
    assert agent.process.wait(20) == 0
    assert not psutil.pid_exists(server)


def test_ctrl_c_of_a_terminal_does_not_reach_what_the_agent_started(agent: Held) -> None:
    agent.hello()
    server = agent.start_server()
    os.killpg(agent.process.pid, signal.SIGINT)
    time.sleep(0.3)
    assert psutil.pid_exists(server)
    assert agent.ask("time")["time"] > 0


def test_the_commands_end_is_the_agents(agent: Held) -> None:
    agent.hello(quiet=True)
    agent.tell("run", arguments=["-c", "import os; print(os.environ['UR2_TEST']); exit(3)"])
    assert agent.line() == "1\n"
    assert agent.process.wait(20) == 3


@pytest.mark.parametrize("forwarded", [True, False], ids=["signal", "launcher gone"])
def test_a_command_gets_one_signal_and_the_time_to_save(
    agent: Held, tmp_path: Path, forwarded: bool
) -> None:
    agent.hello(quiet=True)
    agent.tell("run", arguments=["-c", SLOW_TO_STOP, str(tmp_path / "checkpoint")])
    assert agent.line() == "ready\n"
    if forwarded:
        agent.tell("signal", name="SIGTERM")
    else:
        close_input(agent)
    assert agent.process.wait(20) == 130
    assert (tmp_path / "checkpoint").read_text() == "saved"


def test_a_node_whose_launcher_is_gone_waits_for_the_run_to_save(
    agent: Held, tmp_path: Path
) -> None:
    mark = str(tmp_path)
    run = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(2)"], env={"UR2_LAUNCH": mark}
    )
    agent.hello()
    arguments = ["-c", LEAVES_A_SERVER]
    started = agent.ask("start", arguments=arguments, outlive={"mark": mark}, timeout_s=20)
    server = int(started["output"].split()[-1])
    close_input(agent)
    while run.poll() is None:
        assert psutil.pid_exists(server)
        time.sleep(0.05)
    assert agent.process.wait(20) == 0
    assert not psutil.pid_exists(server)


def test_a_start_that_takes_too_long_is_told(agent: Held) -> None:
    agent.hello()
    arguments = ["-c", "import time; print('so far', flush=True); time.sleep(600)"]
    told = agent.ask("start", arguments=arguments, outlive={}, timeout_s=1.5)
    assert told["code"] != 0
    assert "so far" in told["output"]

"""The launcher's side of a connection, over local shells."""

import asyncio
import sys
from pathlib import Path

import pytest

from ur2.errors import ComponentError
from ur2.launch.nodes import LaunchNode, agent_words, passed_on
from ur2.launch.options import LaunchOptions

AGENT = f"exec {sys.executable} -m ur2.launch.agent"


def shell(line: str) -> LaunchNode:
    return LaunchNode("x", ["sh", "-c", line])


@pytest.mark.parametrize("greeting", ["echo Welcome to x", "printf 'Loading modules ... '"])
async def test_what_a_login_script_prints_is_no_answer(greeting: str) -> None:
    node = shell(f"{greeting}; echo Last login: today >&2; {AGENT}")
    try:
        await node.connect("m", {}, 1.0)
        assert (await node.ask("time", within_s=20))["time"] > 0
    finally:
        await node.close()
    assert await node.ended() == 0


async def test_a_connection_that_fails_says_what_it_said() -> None:
    node = shell("echo No route to host >&2; exit 255")
    with pytest.raises(ComponentError, match="No route to host"):
        await node.connect("m", {}, 1.0)
    await node.close()


async def test_an_answer_that_does_not_come_in_time_is_an_error() -> None:
    node = shell(AGENT)
    try:
        await node.connect("m", {}, 1.0)
        with pytest.raises(ComponentError, match=r"no answer within 0\.01 s"):
            await node.answer(0.01)
    finally:
        await node.close()


@pytest.mark.parametrize("is_over", [True, False])
async def test_a_node_waits_for_a_run_unless_it_is_told_that_it_is_over(
    tmp_path: Path, is_over: bool
) -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(2)"]
    run = await asyncio.create_subprocess_exec(*sleep, env={"UR2_LAUNCH": str(tmp_path)})
    node = shell(AGENT)
    await node.connect("m", {}, 20.0)
    server = {"arguments": ["-c", ""], "outlive": {"mark": str(tmp_path)}, "timeout_s": 20.0}
    await node.ask("start", within_s=20, **server)
    await node.close(is_over=is_over)
    assert (run.returncode is None) == is_over
    await run.wait()


async def test_an_error_there_is_an_error_here() -> None:
    node = shell(AGENT)
    try:
        await node.connect("m", {}, 1.0)
        with pytest.raises(ComponentError, match="facts: "):
            await node.ask(
                "facts",
                within_s=20,
                ports={},
                held=[],
                inputs=["/" + "x" * 300],  # a name that no file system takes
                hub_models=[],
                plugins=[],
                towards="8.8.8.8",
            )
    finally:
        await node.close()


def test_a_slurm_step_gets_the_nodes_cores_and_ssh_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "96")
    slurm = agent_words(LaunchOptions(hosts=("n1",), through="srun"), "n1", "/my repo")
    assert slurm[0] == "srun"
    assert {"--overlap", "--cpus-per-task=96", "--nodelist=n1"} <= set(slurm)
    ssh = agent_words(LaunchOptions(hosts=("me@n1",), python="run it"), "me@n1", "/my repo")
    assert ssh[-2:] == ["me@n1", slurm[-1].replace(".venv/bin/python", "run it")]
    assert ssh[-1] == "cd '/my repo' && exec run it -m ur2.launch.agent"


def test_only_named_variables_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    monkeypatch.setenv("MY_SECRET", "x")
    given = passed_on(LaunchOptions(hosts=("a",)).env)
    assert given["NCCL_DEBUG"] == "INFO"
    assert "MY_SECRET" not in given

"""A ray job from its submission to its end, with a cluster that plays a script."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from ray.job_submission import JobStatus

from ur2.errors import ComponentError, InputError
from ur2.launch import job
from ur2.launch.job import connect, entrypoint, run_job, runtime_env
from ur2.launch.options import JobOptions
from ur2.options import parse_command_line

OPTIONS = JobOptions(address="http://head:8265")
Connection = list[str | float | Exception]
"""Texts, pauses in seconds, and how it breaks."""
BROKEN = RuntimeError("WebSocket connection closed unexpectedly")


class Scripted:
    """A cluster whose log is sent over some connections, each until it ends or breaks."""

    def __init__(self, *connections: Connection, exit_code: int | None = 0) -> None:
        self.connections = list(connections)
        self.exit_code = exit_code
        self.during_submission: Callable[[], object] = lambda: None
        self.submitted: list[str] = []
        self.stopped: list[str] = []

    def submit_job(self, *, submission_id: str, **_: Any) -> str:
        self.submitted.append(submission_id)
        self.during_submission()
        return submission_id

    def stop_job(self, name: str) -> bool:
        self.stopped.append(name)
        return True

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        assert name in self.submitted
        for event in self.connections.pop(0):
            match event:
                case str():
                    yield event
                case float():
                    await asyncio.sleep(event)
                case _:
                    raise event

    def get_job_info(self, name: str) -> Any:
        assert name in self.submitted
        if self.connections:
            status = JobStatus.RUNNING
        else:
            status = JobStatus.STOPPED if self.stopped else JobStatus.SUCCEEDED
        return SimpleNamespace(status=status, driver_exit_code=self.exit_code, message="why")


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(job, "POLL_S", 0.01)
    before = {number: signal.getsignal(number) for number in job.STOPS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


async def test_the_exit_code_is_the_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert await run_job(Scripted(["one ", "two"], exit_code=3), OPTIONS, []) == 3
    assert capsys.readouterr().out == "one two"


async def test_a_log_that_breaks_off_goes_on_where_it_was(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "PATIENCE_S", 0.2)
    quiet = 0.3
    cluster = Scripted(
        ["one ", "two ", quiet, BROKEN],
        [BROKEN],
        ["one two", " three", quiet, BROKEN],
        [BROKEN],
        [],
    )
    assert await run_job(cluster, OPTIONS, []) == 0
    assert capsys.readouterr().out == "one two three"


async def test_a_cluster_that_is_gone_for_good_is_an_error_that_names_the_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(job, "PATIENCE_S", 0.1)
    cluster = Scripted(*([BROKEN] for _ in range(1000)))
    with pytest.raises(ComponentError, match=r"http://head:8265 .* closed unexpectedly") as error:
        await run_job(cluster, OPTIONS, [])
    assert cluster.submitted[0] in str(error.value)


async def test_a_job_that_could_not_start_says_why() -> None:
    with pytest.raises(ComponentError, match="was not started: why"):
        await run_job(Scripted([], exit_code=None), OPTIONS, [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_job_that_is_stopped_while_it_is_submitted_does_not_run_on(number: int) -> None:
    cluster = Scripted([], [])
    cluster.during_submission = lambda: os.kill(os.getpid(), number)
    assert await run_job(cluster, OPTIONS, []) == 130
    assert cluster.stopped == cluster.submitted


def test_the_address_that_is_named_is_the_one_that_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.2:1")
    with pytest.raises(ComponentError) as error:
        connect(JobOptions(address=f"http://127.0.0.1:{port}"))
    assert "127.0.0.2" not in str(error.value)


@pytest.mark.parametrize("address", ["ftp://head", "http://"])
def test_an_address_that_leads_nowhere_is_an_error(address: str) -> None:
    with pytest.raises(ComponentError, match=f"{address} takes no jobs"):
        connect(JobOptions(address=address))


@pytest.mark.parametrize("address", ["head:8265", "+experiment=smoke"])
def test_an_address_that_is_no_url_is_refused(address: str) -> None:
    with pytest.raises(InputError, match=r"'address': .* http://head:8265"):
        parse_command_line(JobOptions, prog="job", about="", argv=[f"address={address}"])


def test_a_folder_with_a_space_is_one_word_for_every_shell() -> None:
    options = JobOptions(address="http://head:8265", root="/my ur2")
    python = "'/my ur2/.venv/bin/python'"
    assert entrypoint(options, []).startswith(f"cd '/my ur2' && exec {python} -m ur2.launch.inside")
    assert runtime_env(options)["py_executable"] == python  # ray's words for a shell
    container = options.model_copy(update={"python": "apptainer exec ur2.sif python"})
    assert " exec apptainer exec ur2.sif python -m " in entrypoint(container, [])

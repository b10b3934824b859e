"""A launch up to where ray would start; its nodes are this machine."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from ur2.errors import ComponentError
from ur2.launch.__main__ import requeue
from ur2.launch.launcher import STOPS, Launcher
from ur2.launch.options import LaunchOptions
from ur2.launch.preflight import Needs

NOTHING = Needs(inputs={}, shared={}, hub_models=[], num_gpus=0)


def launcher(**options: object) -> Launcher:
    given = LaunchOptions(hosts=("a",), python=sys.executable, **options)  # type: ignore[arg-type]
    return Launcher(given, NOTHING, object_store_bytes=None, console=Console(stderr=True))


@pytest.fixture(autouse=True)
def _signals_as_they_were() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOPS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


async def test_a_launch_under_nohup_outlives_its_terminal() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    launch = launcher()
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGTERM)
    await launch.stopped.wait()
    assert launch.stops == [signal.SIGTERM]


def test_a_job_that_slurm_does_not_requeue_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim = tmp_path / "scontrol"
    shim.write_text("#!/bin/sh\necho Requested operation is presently disabled >&2; exit 1\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ComponentError, match=r"job 17 .*presently disabled.*submit it again"):
        requeue("17")

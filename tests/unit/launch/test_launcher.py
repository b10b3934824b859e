"""A launch up to where ray would start; its nodes are this machine."""

import os
import signal
import sys
from collections.abc import Iterator

import pytest
from rich.console import Console

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

"""Stopping when the user asks to: what is waited for is given up, nothing is left half done."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

from ur2.errors import RunInterruptedError

T = TypeVar("T")


def stop_on_signals() -> asyncio.Event:
    """An event that the first Ctrl-C or SIGTERM sets; a second one ends the process at once.

    Call it after ray has started, which sets handlers of its own.
    """
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def on_signal(number: int) -> None:
        stop.set()
        loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    return stop


async def unless_stopped(work: Coroutine[Any, Any, T], stop: asyncio.Event) -> T:
    """The result of `work`, given up as soon as `stop` is set.

    Raises:
        RunInterruptedError: it is set.
    """
    task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            raise RunInterruptedError("interrupted")
        return task.result()
    finally:
        task.cancel()
        stopped.cancel()

"""Engines and retrieval for one piece of work: started, used, and ended whatever happens."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

from rich.console import Console

from ur2.assembly.workers import (
    NoRetriever,
    make_retriever,
    make_rollouts,
    make_service,
    num_engines,
)
from ur2.config.schema import DifficultyOptions, EvaluationOptions
from ur2.errors import ComponentError, RunInterruptedError
from ur2.locks import locked
from ur2.rollout.pool.rollout_pool import RolloutPool
from ur2.trainer.cluster.ray_cluster import Cluster

Options = EvaluationOptions | DifficultyOptions
Work = Callable[[RolloutPool], Awaitable[None]]


def with_rollouts(
    options: Options, work: Work, *, search: bool, out: Path, console: Console
) -> None:
    """Runs `work` on started workers.

    Args:
        options: engines, prompts and retriever.
        work: what to do.
        search: whether a retriever is needed.
        out: the folder whose content the same command continues.
        console: shows that workers start.

    Raises:
        InputError: another process is at work on `out`, or it cannot be written.
        RunInterruptedError: Ctrl-C or SIGTERM.
        ComponentError: a worker failed past its retries.
    """
    go_on = f"the same command continues what is in {out}"
    try:
        with locked(out, of=str(out), else_do="wait for it, or name another out"):
            asyncio.run(_run(options, work, search, console))
    except ComponentError as error:
        raise type(error)(f"{error}; {go_on}") from error
    except asyncio.CancelledError as error:
        raise RunInterruptedError(f"interrupted; {go_on}") from error


async def _run(options: Options, work: Work, search: bool, console: Console) -> None:
    cluster = Cluster(options.cluster)
    _cancel_on_signals()  # ray has set handlers of its own by now
    try:
        with console.status("starting workers"):
            seats = await cluster.reserve(num_engines=num_engines(options))
            service = make_service(options, cluster) if search else None
            retriever = make_retriever(options, service) if search else NoRetriever()
            rollouts = make_rollouts(
                options,
                cluster,
                retriever,
                seats.engines,
                dtype="float32" if options.precision == "fp32" else "bfloat16",
            )
            starting = [rollouts.start()]
            if service is not None:
                starting.append(service.call("start"))
            await asyncio.gather(*starting)
        await work(rollouts)
    finally:
        await cluster.close()


def _cancel_on_signals() -> None:
    """The first Ctrl-C or SIGTERM cancels this task; a second one ends the process at once."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def stop(number: int) -> None:
        loop.remove_signal_handler(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)

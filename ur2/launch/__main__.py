"""`python -m ur2.launch launch.hosts=[a,b] +experiment=NAME [key=value ...]`: a run on nodes.

The scripts scripts/launch_*.sh call this; keys that begin with `launch.` are its own (`--help`
lists them), all others the run's.
"""

import asyncio
import os
import signal
import subprocess
import sys

from rich.console import Console

from ur2.config.schema import RunOptions
from ur2.errors import EXIT_INTERRUPTED, ComponentError, run_entry
from ur2.launch.launcher import Launcher
from ur2.launch.needs import compose_first, needs_of
from ur2.launch.options import LaunchOptions
from ur2.launch.words import split_words
from ur2.options import parse_command_line


def main() -> None:
    """Runs the command line."""
    own, overrides = split_words(sys.argv[1:], "launch.")
    options = parse_command_line(
        LaunchOptions,
        prog="python -m ur2.launch",
        about="Starts ray on several nodes and trains on them. Write the keys below with `launch.` "
        "before them, as in launch.ports=[7000]; all other words go to python -m ur2.train.",
        argv=own,
    )
    if int(os.environ.get("SLURM_RESTART_COUNT", "0")):
        overrides.append("resume=auto")
    run = compose_first(overrides)
    code, stops = asyncio.run(launch(options, run, overrides))
    job = os.environ.get("SLURM_JOB_ID")
    if code == EXIT_INTERRUPTED and job and signal.SIGUSR1 in stops:
        requeue(job)
    sys.exit(code)


def requeue(job: str) -> None:
    """Puts a SLURM job back into the queue.

    Raises:
        ComponentError: SLURM refuses.
    """
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ComponentError(
            f"job {job} has its checkpoint, but SLURM does not put it back into the queue "
            f"({done.stderr.strip()}); submit it again to continue"
        )


async def launch(
    options: LaunchOptions, run: RunOptions, overrides: list[str]
) -> tuple[int, list[signal.Signals]]:
    """One launch: the exit code of its run, and the signals that asked it to stop."""
    launcher = Launcher(
        options,
        needs_of(run, options, len(options.hosts)),
        object_store_bytes=run.cluster.object_store_bytes,
        console=Console(stderr=True, markup=False),
    )
    return await launcher.run("ur2.train", overrides), launcher.stops


if __name__ == "__main__":
    run_entry(main)

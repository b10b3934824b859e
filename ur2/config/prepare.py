"""Makes the inputs that a command of this package can make."""

import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ur2.config.preflight import find_inputs
from ur2.config.schema import RunOptions
from ur2.errors import EXIT_INTERRUPTED, ComponentError, InputError, RunInterruptedError
from ur2.trainer.options import PrepareOptions

OWN = ["python", "-m"]
GRACE_S = 10.0
"""For a command to end its workers when it is interrupted."""


def prepare(options: RunOptions, console: Console) -> None:
    """Runs the experiment's own commands in order; each is quick where its product is up to date.

    A command whose products this run does not read, since another input was chosen, is left out.

    Raises:
        InputError: a command failed on its input, or an input is made by a foreign command and is
            not there.
        ComponentError: a command failed otherwise.
        RunInterruptedError: Ctrl-C or SIGTERM, here or in a command.
    """
    for step in needed_steps(options):
        words = shlex.split(step.command)
        if words[:2] != OWN:
            for path in step.makes:
                if not Path(path).exists():
                    raise InputError(f"'{path}' does not exist; make it with: {step.command}")
            continue
        console.print(f"▸ {step.command}", style="bold", soft_wrap=True, highlight=False)
        code = run_command([sys.executable, *words[1:]])
        if code in (EXIT_INTERRUPTED, -signal.SIGINT):
            raise RunInterruptedError("interrupted; the same command goes on")
        if code:
            failure = InputError if code == InputError.exit_code else ComponentError
            raise failure(f"'{step.command}' failed with exit code {code}; its message is above")


def run_command(words: Sequence[str]) -> int:
    """The exit code of a command, which ends before this process does, whatever stops it."""
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True
        process.terminate()

    with subprocess.Popen(words) as process:
        before = signal.signal(signal.SIGTERM, stop)
        try:
            code = process.wait()
        except KeyboardInterrupt:  # a terminal's Ctrl-C has reached the command, too
            stopped = True
            _end(process)
        finally:
            signal.signal(signal.SIGTERM, before)
    return EXIT_INTERRUPTED if stopped else code


def _end(process: "subprocess.Popen[bytes]") -> None:
    for insist in (process.terminate, process.kill):
        try:
            process.wait(GRACE_S)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            insist()


def needed_steps(options: RunOptions) -> list[PrepareOptions]:
    """The steps that make what the run reads, or what the command of a later such step names.

    Of each, only the products that are needed.
    """
    read = {item.path for item in find_inputs(options)}
    steps: list[PrepareOptions] = []
    for step in reversed(options.prepare):
        named = " ".join(later.command for later in steps)
        makes = tuple(path for path in step.makes if path in read or path in named)
        if makes:
            steps.insert(0, step.model_copy(update={"makes": makes}))
    return steps

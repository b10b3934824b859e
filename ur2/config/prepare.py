"""Makes the inputs that a command of this package can make."""

import shlex
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from ur2.config.preflight import find_inputs
from ur2.config.schema import RunOptions
from ur2.errors import ComponentError, InputError
from ur2.trainer.options import PrepareOptions

OWN = ["python", "-m"]


def prepare(options: RunOptions, console: Console) -> None:
    """Runs the experiment's own commands in order; each is quick where its product is up to date.

    A command whose products this run does not read, since another input was chosen, is left out.

    Raises:
        InputError: a command failed on its input, or an input is made by a foreign command and is
            not there.
        ComponentError: a command failed otherwise.
    """
    for step in needed_steps(options):
        words = shlex.split(step.command)
        if words[:2] != OWN:
            for path in step.makes:
                if not Path(path).exists():
                    raise InputError(f"'{path}' does not exist; make it with: {step.command}")
            continue
        console.print(f"[bold]▸ {step.command}", soft_wrap=True, highlight=False)
        code = subprocess.run([sys.executable, *words[1:]], check=False).returncode
        if code:
            failure = InputError if code == InputError.exit_code else ComponentError
            raise failure(f"'{step.command}' failed with exit code {code}; its message is above")


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

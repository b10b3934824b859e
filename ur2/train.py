"""`python -m ur2.train +experiment=NAME [key=value ...]`: compose, check, prepare, train."""

import asyncio
import errno
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from rich.console import Console

from ur2.config.load import run_composed
from ur2.config.memory import check_disk
from ur2.config.plan import print_plan, print_run
from ur2.config.preflight import (
    check_inputs_exist,
    check_machine,
    check_options,
    find_inputs,
    load_inputs,
)
from ur2.config.prepare import prepare
from ur2.config.resume import dated, fingerprint, refuse_changes, refuse_other_inputs
from ur2.config.schema import RunOptions
from ur2.errors import InputError, run_entry
from ur2.locks import locked
from ur2.trainer.checkpoint import read_state
from ur2.trainer.record.run_directory import RunDirectory
from ur2.types import Question


class Output(Console):
    """The terminal; once nobody reads it, a run ends as by any failure, with a checkpoint."""

    def __init__(self) -> None:
        """Prints what it gets as it is: paths may hold brackets."""
        super().__init__(markup=False)

    def on_broken_pipe(self) -> None:
        """Raises, where `Console` would end the process on the spot."""
        with suppress(SystemExit):
            super().on_broken_pipe()
        raise BrokenPipeError(errno.EPIPE, "nobody reads the output any more")


def main() -> None:
    """Runs the command line."""
    run_composed(train)


def train(options: RunOptions) -> None:
    """One run, from options to summary.json."""
    console = Output()
    check_options(options)
    if options.resume not in ("auto", "none"):
        read_state(Path(options.resume))
    check_inputs_exist(find_inputs(options))
    if options.dry_run:
        print_plan(options, console)
        return
    check_machine(options)
    prepare(options, console)
    inputs = load_inputs(options)
    run = choose_run(options, console)
    if run is None:
        return
    check_disk(options, run.path)
    checkpoint = run.newest_checkpoint() if options.resume == "auto" else None
    if options.resume not in ("auto", "none"):
        checkpoint = Path(options.resume)
    options, found = check_inputs_unchanged(options, inputs.train, checkpoint)
    from ur2.assembly.training import (
        run_training,  # loads ray and torch: only once all checks have passed
    )

    else_do = "wait for it, or pass resume=none or another run_dir"
    with locked(run.path, of=f"the run in {run.path}", else_do=else_do):
        console.print(f"▸ training in {run.path}", style="bold", soft_wrap=True, highlight=False)
        print_run(options, console)
        training = run_training(
            options, inputs, run, console, checkpoint=checkpoint, fingerprint=found
        )
        asyncio.run(training)


def check_inputs_unchanged(
    options: RunOptions, questions: Sequence[Question], checkpoint: Path | None
) -> tuple[RunOptions, dict[str, str]]:
    """The options with the run's date, and the fingerprint of what they name.

    Raises:
        InputError: the checkpoint rests on something else.
    """
    kept: dict[str, str] = {}
    if checkpoint is not None:
        kept = read_state(checkpoint).fingerprint
        its_run = RunDirectory(checkpoint.resolve().parents[1])
        changed = its_run.changed_keys(options.model_dump(mode="json"))
        refuse_changes(changed, options, of=str(checkpoint))
    options = dated(options, kept)
    found = fingerprint(options, questions)
    refuse_other_inputs(kept, found, of=str(checkpoint))
    return options, found


def choose_run(options: RunOptions, console: Console) -> RunDirectory | None:
    """The folder to start or go on in; None where all steps are done.

    Raises:
        InputError: the named one holds another run, or one that rests on other options.
    """
    config = options.model_dump(mode="json")
    now = f"{datetime.now():%Y%m%d-%H%M%S}"
    run = RunDirectory.choose(options.run_dir, options.resume, options.experiment, config, now)
    changed = run.changed_keys(config)
    if "experiment" in changed:
        raise InputError(f"run_dir {run.path} holds a run of another experiment; name another")
    if run.summary_path.exists() and run.finished_steps() >= options.trainer.steps:
        console.print(
            f"{run.path} holds a finished run: raise trainer.steps to go on, "
            "or pass another run_dir"
        )
        return None
    if run.newest_checkpoint() is not None:  # what is begun and not learned from may change
        changed = refuse_changes(changed, options, of=str(run.path))
        if changed:
            console.print(f"note: continuing {run.path} with other values of {', '.join(changed)}")
    return run


if __name__ == "__main__":
    run_entry(main)

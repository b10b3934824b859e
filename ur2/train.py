"""`python -m ur2.train +experiment=NAME [key=value ...]`: compose, check, prepare, train."""

import asyncio
from datetime import datetime

from rich.console import Console

from ur2.config.load import run_composed
from ur2.config.plan import print_plan, print_run
from ur2.config.preflight import (
    check_inputs_exist,
    check_machine,
    check_options,
    find_inputs,
    load_inputs,
)
from ur2.config.prepare import prepare
from ur2.config.schema import RunOptions
from ur2.errors import run_entry
from ur2.trainer.run_directory import RunDirectory


def main() -> None:
    """Runs the command line."""
    run_composed(train)


def train(options: RunOptions) -> None:
    """One run, from options to summary.json."""
    console = Console()
    check_options(options)
    check_inputs_exist(find_inputs(options))
    if options.dry_run:
        print_plan(options, console)
        return
    check_machine(options)
    prepare(options, console)
    inputs = load_inputs(options)
    config = options.model_dump(mode="json")
    now = f"{datetime.now():%Y%m%d-%H%M%S}"
    run = RunDirectory.choose(options.run_dir, options.resume, options.experiment, config, now)
    if run.finished_steps() >= options.trainer.steps:
        console.print(
            f"{run.path} holds a finished run: raise trainer.steps to go on, "
            "or pass another run_dir"
        )
        return
    if changed := run.changed_keys(config):
        console.print(f"note: continuing {run.path} with other values of {', '.join(changed)}")
    from ur2.wiring import run_training  # loads ray and torch: only once all checks have passed

    console.print(f"[bold]▸ training in {run.path}", soft_wrap=True, highlight=False)
    print_run(options, console)
    asyncio.run(run_training(options, inputs, run, console))


if __name__ == "__main__":
    run_entry(main)

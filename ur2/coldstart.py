"""`python -m ur2.coldstart +experiment=NAME`: supervised training on demonstrations, before RL.

Where `coldstart.teacher` is given, that model first plays the experiment's environment, and its
episodes that the experiment's graders call right become demonstrations. `dry_run=true` tells what
would be asked of it, and what it may cost at most; `coldstart.teacher.KEY=VALUE` changes that, and
the same command continues what was interrupted.
"""

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from itertools import chain, repeat
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from ur2.benchmarks.attempts import total
from ur2.config.load import run_composed
from ur2.config.schema import RunOptions
from ur2.config.teacher import attempts_file, load_taught, teacher_run, teacher_settings
from ur2.datasets import load_demonstrations
from ur2.demonstrations import Demonstration, RecordedContext
from ur2.environments.game import Game
from ur2.errors import InputError, run_entry
from ur2.policy.model.scratch import make_model
from ur2.rollout.worker import make_renderer
from ur2.trainer.cluster.ray_cluster import Cluster
from ur2.trainer.coldstart import fingerprint, steps_of, to_samples, train_phase
from ur2.trainer.interrupt import stop_on_signals, unless_stopped
from ur2.trainer.options import ColdstartOptions
from ur2.trainer.teacher_options import TeacherOptions
from ur2.types import Sample

RECORD = "coldstart.json"
LINE_COUNT = 1000
"""How often a line of the options counts for the tokenizer."""


def main() -> None:
    """Runs the command line."""
    run_composed(coldstart)


def coldstart(options: RunOptions) -> None:
    """Makes the model folder of the experiment's `coldstart`, unless it is up to date."""
    console = Console(markup=False)
    cold = options.coldstart
    if cold is None:
        raise InputError(f"experiment '{options.experiment}' has no cold start; drop this command")
    out = Path(cold.out)
    if out.exists() and _fingerprint_of(out) is None:
        raise InputError(f"coldstart.out: {out} exists and no cold start made it; name another")
    if cold.phases and cold.scratch is None and cold.base is None:
        raise InputError("coldstart: give `scratch` (a model from nothing) or `base`")
    if cold.teacher is not None:  # after all that could make its work useless
        _teach(options, cold.teacher, console)
        if not cold.phases or options.dry_run:
            return
    if not cold.phases:
        raise InputError("coldstart.phases: there are none, so that nothing would be trained")
    demonstrations = [_read(phase.demonstrations) for phase in cold.phases]
    wanted = fingerprint(cold, options.prompt, Game.load(options.environment).options)
    if _fingerprint_of(out) == wanted:
        console.print(f"cold start: {out} is up to date", soft_wrap=True)
        return
    if options.dry_run:
        for phase, examples in zip(cold.phases, demonstrations, strict=True):
            console.print(f"{phase.demonstrations}: {len(examples)} demonstrations", soft_wrap=True)
        console.print(f"cold start: {out} would be made from them")
        return
    staged = out.with_name(out.name + ".unfinished")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    started = time.perf_counter()
    losses = asyncio.run(_train(options, cold, demonstrations, staged, console))
    model = staged / f"phase{len(cold.phases)}"
    record = {"fingerprint": wanted, "seconds": time.perf_counter() - started, "loss": losses}
    (model / RECORD).write_text(json.dumps(record) + "\n")
    shutil.rmtree(out, ignore_errors=True)
    model.rename(out)
    shutil.rmtree(staged)
    console.print(f"cold start: {out} made in {record['seconds']:.0f} s")


def _teach(options: RunOptions, teacher: TeacherOptions, console: Console) -> None:
    """Has the teacher play what is left to play, or tells what that would be."""
    run = teacher_run(options, teacher)
    questions = load_taught(run)
    file, settings = attempts_file(run), teacher_settings(run, teacher)
    file.check(settings)
    spent = total(file.read())
    retrieval = "with" if teacher.retrieval else "without"
    console.print(
        f"teacher: {teacher.model} ({teacher.engine.name}) gets {len(questions)} questions of "
        f"{run.dataset.train}, up to {teacher.attempts} attempts each, {retrieval} retrieval, and "
        f"at most {_bound(teacher)} in all, of which {spent.calls} calls and {spent.tokens} tokens "
        f"are spent; results in {teacher.out}",
        soft_wrap=True,
        highlight=False,
    )
    if options.dry_run:
        return
    file.open(settings)
    from ur2.assembly.teaching import teach  # loads ray and torch: only after all checks

    teach(run, teacher, questions, console)


def _bound(teacher: TeacherOptions) -> str:
    bounds = {"calls": teacher.max_calls, "tokens read and written": teacher.max_tokens}
    told = [f"{bound} {what}" for what, bound in bounds.items() if bound is not None]
    return " and ".join(told) or "any number of calls and tokens"


async def _train(
    options: RunOptions,
    cold: ColdstartOptions,
    demonstrations: list[list[Demonstration | RecordedContext]],
    staged: Path,
    console: Console,
) -> list[list[float]]:
    """Runs the phases; returns their losses by step.

    Raises:
        RunInterruptedError: Ctrl-C or SIGTERM.
    """
    base = _base(cold, staged)
    renderer = make_renderer(options.rollout, options.prompt, base)
    game = Game.load(options.environment)
    samples = [to_samples(examples, renderer, game) for examples in demonstrations]
    for phase, trained in zip(cold.phases, samples, strict=True):
        if not trained:
            raise InputError(f"coldstart: '{phase.demonstrations}' has nothing to train on")
    cluster = Cluster(options.cluster)
    stop = stop_on_signals()
    try:
        return await unless_stopped(_phases(cluster, cold, samples, base, staged, console), stop)
    finally:
        await cluster.close()


async def _phases(
    cluster: Cluster,
    cold: ColdstartOptions,
    samples: list[list[Sample]],
    base: str,
    staged: Path,
    console: Console,
) -> list[list[float]]:
    losses = []
    for number, (phase, trained) in enumerate(zip(cold.phases, samples, strict=True), start=1):
        out = str(staged / f"phase{number}")
        steps = train_phase(cluster, phase, trained, base=base, out=out, seed=cold.seed)
        total = steps_of(phase, len(trained))
        losses.append(await _watch(steps, f"cold start, phase {number}", total, console))
        base = out
    return losses


async def _watch(
    steps: AsyncIterator[dict[str, float]], label: str, total: int, console: Console
) -> list[float]:
    """Shows a phase as it goes on, by a bar or, where the output is no terminal, by lines."""
    losses: list[float] = []
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(label, total=total)
        async for metrics in steps:
            losses.append(metrics["policy/loss"])
            bar.update(task, advance=1, description=f"{label}, loss {losses[-1]:.3f}")
            if len(losses) % max(1, total // 5) == 0 and not console.is_terminal:
                console.print(f"{label}: step {len(losses)}/{total}, loss {losses[-1]:.3f}")
    console.print(f"{label}: {total} steps, loss {losses[0]:.3f} -> {fmean(losses[-20:]):.3f}")
    return losses


def _base(cold: ColdstartOptions, staged: Path) -> str:
    """The model that the first phase trains."""
    if cold.scratch is None:
        return str(cold.base)
    texts = (text for file in cold.scratch_texts for text in _strings(file))
    lines = chain.from_iterable(repeat(line, LINE_COUNT) for line in cold.scratch_lines)
    make_model(cold.scratch, chain(texts, lines), str(staged / "scratch"), cold.seed)
    return str(staged / "scratch")


def _strings(file: str) -> Iterator[str]:
    """Every text in a file of JSON lines.

    Raises:
        InputError: it is none.
    """

    def walk(node: object) -> Iterator[str]:
        if isinstance(node, str):
            yield node
        elif isinstance(node, dict | list):
            for child in node.values() if isinstance(node, dict) else node:
                yield from walk(child)

    try:
        rows = [json.loads(line) for line in Path(file).read_bytes().splitlines()]
    except ValueError as error:
        raise InputError(f"coldstart.scratch_texts: '{file}' is not JSON lines: {error}") from error
    yield from walk(rows)


def _read(file: str) -> list[Demonstration | RecordedContext]:
    if not Path(file).exists():
        raise InputError(f"coldstart: '{file}' does not exist; make it first")
    return load_demonstrations(file)


def _fingerprint_of(out: Path) -> str | None:
    """The fingerprint in a folder that a cold start made; None in any other."""
    try:
        fingerprint: str = json.loads((out / RECORD).read_bytes())["fingerprint"]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None
    return fingerprint


if __name__ == "__main__":
    run_entry(main)

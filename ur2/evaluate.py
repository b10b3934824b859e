"""`python -m ur2.evaluate checkpoint=PATH +benchmark=NAME [key=value ...]`: measure a policy."""

import re
import time
from collections.abc import Sequence

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import MofNCompleteColumn, Progress

from ur2.benchmarks.results import publish
from ur2.benchmarks.runner import Benchmark, Runner
from ur2.benchmarks.store import EvaluationFolder
from ur2.config.evaluation import evaluation_settings, load_benchmarks, print_evaluation
from ur2.config.load import run_composed_evaluation
from ur2.config.measuring import resolve_model
from ur2.config.schema import EvaluationOptions
from ur2.errors import run_entry
from ur2.rewards.judge import Judge
from ur2.rollout.pool.rollout_pool import RolloutPool


def main() -> None:
    """Runs the command line."""
    run_composed_evaluation(evaluate)


def evaluate(options: EvaluationOptions) -> None:
    """One evaluation, from options to results.md; what an earlier one left there is continued."""
    console = Console(markup=False)
    options = resolve_model(options)
    benchmarks = load_benchmarks(options)
    store = EvaluationFolder(options.out or default_out(options.checkpoint))
    deciding = evaluation_settings(options)
    store.check(deciding)
    print_evaluation(options, benchmarks, str(store.path), console)
    if options.dry_run:
        return
    store.open(deciding)
    if options.retry_failures:
        for benchmark in benchmarks:
            store.drop_failures(benchmark.name, unjudged=options.judge.url is not None)
    if num_left(store, benchmarks):
        from ur2.assembly.measuring import (
            with_rollouts,  # loads ray and torch: only after all checks
        )

        with_rollouts(
            options,
            lambda rollouts: play_all(options, benchmarks, store, rollouts, console),
            search=options.search,
            out=store.path,
            console=console,
        )
    console.print(Markdown(_publish(options, benchmarks, store)))
    console.print(f"results: {store.results_path}, {store.table_path}", soft_wrap=True)


def num_left(store: EvaluationFolder, benchmarks: Sequence[Benchmark]) -> int:
    """Questions without an item."""
    left = 0
    for benchmark in benchmarks:
        done = store.read_items(benchmark.name, benchmark.questions)
        left += sum(question.id not in done for question in benchmark.played)
    return left


def default_out(checkpoint: str) -> str:
    """The folder of a checkpoint's results."""
    return f"runs/evaluation/{re.sub(r'[^A-Za-z0-9._-]+', '-', checkpoint).strip('-.')}"


async def play_all(
    options: EvaluationOptions,
    benchmarks: Sequence[Benchmark],
    store: EvaluationFolder,
    rollouts: RolloutPool,
    console: Console,
) -> None:
    """Plays what is left on started workers; results are written after each benchmark."""
    runner = Runner(
        rollouts,
        store,
        sampling=options.rollout.eval_sampling,
        search=options.search,
        max_failure_rate=options.retrieval.max_failure_rate,
        judge=Judge(options.judge) if options.judge.url is not None else None,
    )
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=sum(len(one.played) for one in benchmarks))
        for benchmark in benchmarks:
            bar.update(task, description=benchmark.options.title)
            started = time.perf_counter()
            items = await runner.run(benchmark, lambda: bar.advance(task))
            _publish(options, benchmarks, store)
            console.print(
                f"{benchmark.options.title}: {len(items)} questions in "
                f"{time.perf_counter() - started:.1f} s",
                highlight=False,
            )


def _publish(
    options: EvaluationOptions, benchmarks: Sequence[Benchmark], store: EvaluationFolder
) -> str:
    facts = {
        "checkpoint": options.checkpoint,
        "model_path": options.model.path,
        "engine": options.rollout.engine.name,
        "temperature": options.rollout.eval_sampling.temperature,
        "top_p": options.rollout.eval_sampling.top_p,
        "top_k": options.rollout.eval_sampling.top_k,
        "seed": options.seed,
        "search": options.search,
    }
    return publish(store, benchmarks, options.averages, facts, seed=options.seed)


if __name__ == "__main__":
    run_entry(main)

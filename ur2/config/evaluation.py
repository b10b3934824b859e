"""Checks and questions of an evaluation, before it starts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ur2.benchmarks.runner import Benchmark
from ur2.config.measuring import check_engine, retrieval_settings
from ur2.config.preflight import (
    Input,
    check_indexes,
    check_inputs_exist,
    find_input,
    make_openings,
    own_indexes,
)
from ur2.config.problems import eval_sampling_problems, length_problems, retrieval_problems
from ur2.config.schema import EvaluationOptions
from ur2.datasets import load_questions
from ur2.errors import InputError


def load_benchmarks(options: EvaluationOptions) -> list[Benchmark]:
    """Checks everything that can be checked before a worker starts, and reads the questions.

    Raises:
        InputError: an option, a file or a question is wrong, or a question's prompt is too long.
    """
    problems = [
        *length_problems(options),
        *eval_sampling_problems(options),
        *_search_problems(options),
    ]
    if problems:
        raise InputError("config: " + "; ".join(problems))
    check_inputs_exist(list(_inputs(options)))
    check_engine(options, options.rollout.eval_sampling)
    openings = make_openings(options)
    if options.search:
        check_indexes(options)
    benchmarks = []
    for name, benchmark in options.benchmarks.items():
        questions = load_questions(benchmark.file, task=benchmark.task)
        for question in questions:
            if question.task != benchmark.task:
                raise InputError(
                    f"benchmarks.{name}: question '{question.id}' of {benchmark.file} is a "
                    f"'{question.task}' task, not '{benchmark.task}'"
                )
            openings.prompt(question, options.search)
        benchmarks.append(
            Benchmark(name=name, options=benchmark, questions=questions, limit=options.limit)
        )
    return benchmarks


def evaluation_settings(options: EvaluationOptions) -> dict[str, Any]:
    """The options that decide answers and grades, which a continued evaluation must share.

    A service that answers at another address is taken to be the same one.
    """
    tree = options.model_dump(mode="json")
    rollout, engine = tree["rollout"], tree["rollout"]["engine"]
    shared = {
        "checkpoint": options.checkpoint,
        "model.path": options.model.path,
        "seed": options.seed,
        "search": options.search,
        "precision": options.precision,
        "judge.model": options.judge.model if options.judge.url is not None else None,
        "prompt": tree["prompt"],
        "environment": tree["environment"],
        "engine.name": engine["name"],
        **{f"engine.remote.{key}": engine["remote"][key] for key in ("api", "model")},
        "rollout.eval_sampling": rollout["eval_sampling"],
        **{
            f"rollout.{key}": value
            for key, value in sorted(rollout.items())
            if key.startswith("max_")
        },
    }
    if options.search:
        shared |= retrieval_settings(options)
    return {
        **shared,
        "benchmarks": {
            name: {key: one[key] for key in ("file", "task", "metrics", "parts")}
            for name, one in tree["benchmarks"].items()
        },
    }


def print_evaluation(
    options: EvaluationOptions, benchmarks: list[Benchmark], out: str, console: Console
) -> None:
    """Prints what is about to be measured, how and where to."""
    sampling = options.rollout.eval_sampling
    table = Table(title=f"evaluation of {options.model.path}", title_justify="left")
    for column in ("benchmark", "file", "questions", "metrics"):
        table.add_column(column, overflow="fold")
    for one in benchmarks:
        table.add_row(
            one.options.title,
            one.options.file,
            f"{len(one.played)} of {len(one.questions)}",
            ", ".join(one.options.metrics),
        )
    console.print(table)
    console.print(
        f"engine {options.rollout.engine.name}, temperature {sampling.temperature:g}, top_p "
        f"{sampling.top_p:g}, top_k {sampling.top_k}, "
        f"{'with' if options.search else 'without'} search; results in {out}",
        soft_wrap=True,
        highlight=False,
    )


def _search_problems(options: EvaluationOptions) -> Iterator[str]:
    if options.search:
        yield from (f"{text} (or search=false)" for text in retrieval_problems(options))


def _inputs(options: EvaluationOptions) -> Iterator[Input]:
    if not options.rollout.engine.speaks_text:
        yield _find("model.path", options.model.path, "checkpoint", options)
    for name, benchmark in options.benchmarks.items():
        yield _find("", benchmark.file, f"benchmarks.{name}.file", options)
    if options.search:
        for key, folder in own_indexes(options).items():
            yield _find("", folder, key, options)


def _find(kind: str, path: str, key: str, options: EvaluationOptions) -> Input:
    """An input as an evaluation needs it: here, or on the hub, but not still to be made."""
    found = find_input(kind, path, options)
    if found.state == "to be made":
        raise InputError(f"{key}: '{path}' does not exist; make it with: {found.command}")
    if found.state == "missing" and Path(options.data_dir) in Path(path).parents:
        raise InputError(
            f"{key}: '{path}' does not exist; fetch it with: bash scripts/download_data.sh ur2 "
            "(or set data_dir)"
        )
    return Input(key=key, path=path, state=found.state)

"""The plan of a run, for `dry_run=true` and for the start of every run."""

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ur2.config.memory import (
    GIB,
    checkpoint_bytes,
    engine_memory,
    find_shape,
    kv_cache_bytes,
    policy_memory,
)
from ur2.config.preflight import (
    Input,
    find_inputs,
    load_checked,
    make_openings,
    num_gpus,
)
from ur2.config.schema import RunOptions
from ur2.config.tables import curriculum_tables, make_table, overlap_table, reward_table
from ur2.datasets import load_questions
from ur2.datasets.matching import find_overlap
from ur2.rollout.openings import Openings
from ur2.types import Level, Question, Task

EXAMPLES: Mapping[Task, Question] = {
    "choice": Question(
        id="example-choice",
        task="choice",
        text="Which vitamin does the skin make in sunlight?",
        options=("Vitamin B12", "Vitamin C", "Vitamin D", "Vitamin K"),
        answers=("C",),
        level=Level.EASY,
    ),
    "math": Question(
        id="example-math",
        task="math",
        text="What is the sum of the first ten odd numbers?",
        answers=("100",),
        level=Level.EASY,
    ),
    "qa": Question(
        id="example-qa",
        task="qa",
        text="In which city was the author of the novel Solaris born?",
        answers=("Lwów", "Lviv"),
        level=Level.MEDIUM,
    ),
}
"""Stand in for questions that are not here."""


def print_plan(options: RunOptions, console: Console) -> None:
    """Prints batches, memory, inputs, reward, curriculum and one prompt per task and mode.

    Raises:
        InputError: an input that is here is wrong.
    """
    inputs = find_inputs(options)
    here = {i.key for i in inputs if i.state == "here"}
    openings = None
    if "model.path" in here:
        openings = make_openings(options)
    questions = _read(options.dataset.train if "dataset.train" in here else None, openings)
    held_out = _read(options.dataset.eval if "dataset.eval" in here else None, openings)
    overlap = find_overlap(questions, held_out) if questions and held_out else None
    if overlap is not None and options.dataset.exclude_overlap:
        questions = overlap.clean(questions)
    console.print(
        _run_table(options, len(questions)),
        _memory_table(options),
        _inputs_table(inputs),
        reward_table(options),
        *curriculum_tables(options, questions),
        overlap_table(options, overlap),
    )
    if openings is None:
        console.print(
            f"Prompts are not shown: the tokenizer of '{options.model.path}' is not here. "
            "Pass model.path=<local folder> to see them."
        )
    else:
        for panel in _prompts(options, questions, openings):
            console.print(panel)


def print_run(options: RunOptions, console: Console) -> None:
    """Prints what is about to run, and where."""
    console.print(_run_table(options))


def _read(path: str | None, openings: Openings | None) -> list[Question]:
    """Checked questions, also against the prompt's limits where the model is here."""
    if path is None:
        return []
    return load_questions(path) if openings is None else load_checked(path, openings)


def _run_table(options: RunOptions, num_questions: int = 0) -> Table:
    groups, samples = options.trainer.questions_per_step, options.rollout.samples_per_prompt
    trajectories = groups * samples
    policy, rollout = options.policy, options.rollout
    updates = policy.updates_per_rollout
    drawn = options.trainer.steps * groups
    passes = f" = {drawn / num_questions:.1f} times the file's" if num_questions else ""
    tokens = trajectories * rollout.max_model_len
    per_rank = tokens / updates / policy.num_ranks
    return make_table(
        "run",
        ("what", "value"),
        (
            ("experiment", f"{options.experiment}, seed {options.seed}"),
            ("steps", f"{options.trainer.steps}, with {drawn:,} questions{passes}"),
            (
                "trajectories per step",
                f"{groups} questions x {samples} samples = {trajectories:,}",
            ),
            (
                "optimizer steps per rollout",
                f"{updates} of {trajectories // updates:,} trajectories, "
                f"{options.trainer.steps * updates:,} in all",
            ),
            (
                "tokens per trajectory, at most",
                f"{rollout.max_prompt_tokens:,} prompt + {rollout.max_tokens:,} after it",
            ),
            (
                "tokens per step, at most",
                f"{tokens:,}, in microbatches of {policy.max_tokens_per_microbatch:,}: "
                f"{-(-per_rank // policy.max_tokens_per_microbatch):,.0f} per optimizer step and "
                "rank",
            ),
            ("environment", options.environment.name),
            (
                "engine",
                f"{rollout.engine.name}, {rollout.num_workers} worker(s), tensor parallel "
                f"{rollout.engine.tensor_parallel_size}",
            ),
            (
                "policy",
                f"{policy.num_ranks} rank(s), ZeRO-{policy.zero_stage}, {policy.precision}, "
                f"{policy.optimizer} lr {policy.learning_rate:g}",
            ),
            ("algorithm", f"{options.algorithm.estimator}, loss {options.algorithm.loss}"),
            ("GPUs", f"{num_gpus(options)}, {options.cluster.placement}"),
        ),
    )


def _memory_table(options: RunOptions) -> Table:
    columns = ("process", "what", "GiB")
    unit = "GPU" if num_gpus(options) else "process"
    found = find_shape(options)
    if found is None:
        why = "unknown: the model is not here, and no model.shape is given"
        return make_table(f"memory per {unit}", columns, [("", why, "")])
    shape, source = found
    policy = policy_memory(shape, options.policy, options.algorithm)
    checkpoint = checkpoint_bytes(shape, options.policy, options.algorithm)
    engine = engine_memory(shape, options)
    title = f"memory per {unit}, estimated for {shape.num_parameters:,} parameters ({source})"
    capacity = options.cluster.gpu_memory_gib
    has_gpus = capacity is not None and options.cluster.num_gpus_per_policy_rank > 0
    rows = [
        ("policy rank", "weights", _gib(policy.weights)),
        ("", "gradients", _gib(policy.gradients)),
        ("", f"{options.policy.optimizer} states and masters", _gib(policy.optimizer)),
        ("", "communication buckets", _gib(policy.buckets)),
        ("", "activations of a microbatch", _gib(policy.activations)),
        ("", "logits of a chunk", _gib(policy.logits)),
        *([("", "reference and critic", _gib(policy.side_models))] if policy.side_models else []),
        ("", "total", _of(policy.total, capacity if has_gpus else None)),
        ("", "a checkpoint on disk", _gib(checkpoint)),
        ("engine", "weights", _gib(engine.weights)),
        ("", "KV cache of one longest sequence", _gib(engine.kv_cache_per_sequence)),
    ]
    room = kv_cache_bytes(engine, options)
    if room is not None:
        sequences = int(room // engine.kv_cache_per_sequence)
        rows.append(("", f"room for KV cache: {sequences:,} longest sequences", _gib(room)))
    if has_gpus and capacity is not None and options.cluster.placement == "colocated":
        share = capacity * GIB * options.rollout.engine.gpu_memory_utilization
        sampling = "while sampling: the policy's weights, states, buckets; the engine's share"
        rows.append(("both", sampling, _of(policy.resident + share, capacity)))
        rows.append(("", "while the policy computes: engines asleep", _of(policy.total, capacity)))
    return make_table(title, columns, rows)


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / GIB:.3g}"


def _of(num_bytes: float, capacity_gib: float | None) -> str:
    """GiB against what a GPU has."""
    if capacity_gib is None:
        return _gib(num_bytes)
    verdict = ": too much" if num_bytes > capacity_gib * GIB else ""
    return f"{_gib(num_bytes)} of {capacity_gib:g}{verdict}"


def _inputs_table(inputs: Sequence[Input]) -> Table:
    states = ((i.key, i.path, f"{i.state}: {i.command}" if i.command else i.state) for i in inputs)
    return make_table("inputs", ("option", "path", "state"), states)


def _prompts(
    options: RunOptions, questions: Sequence[Question], openings: Openings
) -> Iterator[Panel]:
    """The first question of each task, or an example, with retrieval on and off."""
    first = {q.task: q for q in reversed(questions)}
    tasks = first or dict.fromkeys(t for t in options.prompt.templates if _may_meet(options, t))
    for task in sorted(tasks):
        for retrieval in (True, False):
            prompt = openings.prompt(first.get(task, EXAMPLES[task]), retrieval)
            source = "prompt" if task in first else "example prompt"
            mode = "on" if retrieval else "off"
            yield Panel(
                Text(prompt.text),
                title=f"{source}: {task}, retrieval {mode}: {len(prompt.token_ids)} tokens",
                title_align="left",
            )


def _may_meet(options: RunOptions, task: Task) -> bool:
    """Whether the curriculum names a bucket of the task, or none at all."""
    curriculum = options.curriculum
    stages = [curriculum.of_stage(stage) for stage in curriculum.stages] or [curriculum]
    named = [bucket for each in stages for bucket in (*each.static, *each.bucket_weights)]
    return not named or any(bucket.startswith(f"{task}/") for bucket in named)

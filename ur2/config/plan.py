"""What a run would do, for `dry_run=true` and the start of every run."""

from collections.abc import Sequence

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from ur2.config.preflight import Input, buckets, find_inputs, load_checked, make_renderer
from ur2.config.schema import RunOptions
from ur2.prompts.render import PromptRenderer
from ur2.types import Question


def print_plan(options: RunOptions, console: Console) -> None:
    """Prints batch arithmetic, placement, inputs, reward, curriculum and one prompt per task.

    Raises:
        InputError: an input that is here is wrong.
    """
    inputs = find_inputs(options)
    console.print(_run_table(options), _inputs_table(inputs), _reward_table(options))
    here = {i.key for i in inputs if i.state == "here"}
    renderer = make_renderer(options, options.model.path) if "model.path" in here else None
    questions = (
        load_checked(options.dataset.train, renderer)
        if renderer and "dataset.train" in here
        else []
    )
    console.print(_curriculum_table(options, questions))
    if renderer is None:
        console.print(
            f"Prompts are not shown: the tokenizer of '{options.model.path}' is not here. "
            "Pass model.path=<local folder> to see them."
        )
    elif questions:
        _print_prompts(questions, renderer, console)


def print_run(options: RunOptions, console: Console) -> None:
    """Prints what is about to run, and where."""
    console.print(_run_table(options))


def _run_table(options: RunOptions) -> Table:
    groups, samples = options.trainer.questions_per_step, options.rollout.samples_per_prompt
    trajectories = groups * samples
    policy, rollout = options.policy, options.rollout
    table = _table("run", "what", "value")
    for row in (
        ("experiment", f"{options.experiment}, seed {options.seed}"),
        ("steps", f"{options.trainer.steps}"),
        ("trajectories per step", f"{groups} questions x {samples} samples = {trajectories}"),
        (
            "optimizer steps per rollout",
            f"{policy.updates_per_rollout} of {trajectories // policy.updates_per_rollout} "
            "trajectories",
        ),
        (
            "tokens per step, at most",
            f"{trajectories * rollout.max_model_len:,} "
            f"({rollout.max_prompt_tokens} prompt + {rollout.max_tokens} after it, each)",
        ),
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
        (
            "GPUs",
            str(
                policy.num_ranks * options.cluster.num_gpus_per_policy_rank
                + rollout.num_workers * options.cluster.num_gpus_per_rollout_worker
            ),
        ),
    ):
        table.add_row(*row)
    return table


def _inputs_table(inputs: Sequence[Input]) -> Table:
    table = _table("inputs", "option", "path", "state")
    for item in inputs:
        state = f"{item.state}: {item.command}" if item.command else item.state
        table.add_row(item.key, item.path, state)
    return table


def _reward_table(options: RunOptions) -> Table:
    table = _table("reward", "term", "settings")
    for name, term in options.reward.terms.items():
        settings = term.model_dump(mode="json", exclude_defaults=True)
        table.add_row(name, ", ".join(f"{k}={v}" for k, v in settings.items()))
    return table


def _curriculum_table(options: RunOptions, questions: Sequence[Question]) -> Table:
    curriculum = options.curriculum
    table = _table(f"curriculum: {curriculum.policy}", "bucket", "questions", "retrieval", "weight")
    counts = buckets(questions) or dict.fromkeys(curriculum.static, 0)
    fixed = {"never": 0.0, "always": 1.0}
    for bucket, count in counts.items():
        rate = fixed.get(curriculum.policy, curriculum.static.get(bucket, 0.0))
        weight = curriculum.bucket_weights.get(bucket)
        table.add_row(
            bucket,
            str(count or "?"),
            f"{rate:.2f}",
            "by size" if weight is None else f"{weight:g}",
        )
    return table


def _print_prompts(
    questions: Sequence[Question], renderer: PromptRenderer, console: Console
) -> None:
    first = {question.task: question for question in reversed(questions)}
    for task, question in sorted(first.items()):
        prompt = renderer.prompt(question, True)
        console.print(
            Panel(
                prompt.text,
                title=f"prompt of a {task} question, retrieval on: {len(prompt.token_ids)} tokens",
                title_align="left",
            ),
            markup=False,
        )


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table

"""`python -m ur2.difficulty +experiment=NAME out=DIR`: how hard is each question?

Plays K samples of every training question without retrieval, and with it if asked, and writes the
questions with measured levels. DIR gets `questions.jsonl`, `report.json`, `levels.png` and
`rollouts.jsonl`, which the same command continues.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from ur2.benchmarks.difficulty import publish
from ur2.benchmarks.tallies import TallyFile
from ur2.config.difficulty import difficulty_settings, load_measured
from ur2.config.load import run_composed_difficulty
from ur2.config.measuring import resolve_model
from ur2.config.schema import DifficultyOptions
from ur2.curriculum.difficulty import Tally
from ur2.curriculum.outcome import GroupOutcome
from ur2.errors import ComponentError, run_entry
from ur2.prompts.dialect import Dialect
from ur2.rewards.rubric import Rubric
from ur2.rollout.pool.rollout_pool import RolloutPool
from ur2.rollout.tasks import gather_or_cancel
from ur2.types import Assignment, Group, Question

NUM_GRADERS = 16
"""Groups graded at once."""
MIN_SEARCHES = 20
"""Searches before their failure rate is judged."""


def main() -> None:
    """Runs the command line."""
    run_composed_difficulty(measure)


def measure(options: DifficultyOptions) -> None:
    """One measurement, from options to the question file; what is in `out` is continued."""
    console = Console(markup=False)
    options = resolve_model(options)
    questions = load_measured(options)
    modes = "without and with" if options.with_retrieval else "without"
    console.print(
        f"{len(questions)} questions of {options.dataset.train}, {options.samples} samples each "
        f"{modes} retrieval, of {options.model.path}; results in {options.out}",
        soft_wrap=True,
        highlight=False,
    )
    if options.dry_run:
        return
    file = TallyFile(Path(options.out))
    file.open(difficulty_settings(options))
    left = assignments_left(options, questions, file)
    if left:
        from ur2.assembly.measuring import (
            with_rollouts,  # loads ray and torch: only after all checks
        )

        with_rollouts(
            options,
            lambda rollouts: play_all(options, left, file, rollouts, console),
            search=options.with_retrieval,
            out=file.out,
            console=console,
        )
    tallies = file.read(questions)
    publish(questions, tallies, options.levels, options.confidence, file.out, console)


def assignments_left(
    options: DifficultyOptions, questions: Sequence[Question], file: TallyFile
) -> list[Assignment]:
    """The groups that have no tally yet."""
    done = file.read(questions)
    modes = (False, True) if options.with_retrieval else (False,)
    return [
        Assignment(
            id=f"difficulty/{'with' if retrieval else 'without'}/{question.id}",
            question=question,
            retrieval=retrieval,
            reason="difficulty",
            step=0,
        )
        for question in questions
        for retrieval in modes
        if (question.id, retrieval) not in done
    ]


async def play_all(
    options: DifficultyOptions,
    assignments: Sequence[Assignment],
    file: TallyFile,
    pool: RolloutPool,
    console: Console,
) -> None:
    """Plays the groups, and stores each as soon as it is scored."""
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("questions x modes", total=len(assignments))
        await _play(options, assignments, file, pool, lambda: bar.advance(task))


async def _play(
    options: DifficultyOptions,
    assignments: Sequence[Assignment],
    file: TallyFile,
    pool: RolloutPool,
    on_done: Callable[[], None],
) -> None:
    rubric = Rubric.from_options(options.reward, Dialect(options.prompt.protocol))
    played: asyncio.Queue[Group | None] = asyncio.Queue()
    searches = {"made": 0, "failed": 0}
    unmeasured: list[str] = []

    async def play() -> None:
        sampling = options.rollout.sampling
        await pool.collect(assignments, options.samples, sampling, on_group=played.put_nowait)
        for _ in range(NUM_GRADERS):
            played.put_nowait(None)

    async def score() -> None:
        while (group := await played.get()) is not None:
            _check_failures(options, group, searches)
            scored = await rubric.score(group, step=1)
            if (outcome := GroupOutcome.of(scored)) is not None:
                file.append(Tally.of(outcome))
            else:
                unmeasured.append(group.assignment.question.id)
            on_done()

    await gather_or_cancel([play(), *(score() for _ in range(NUM_GRADERS))])
    if unmeasured:
        raise ComponentError(
            f"tools failed in all samples of {len(unmeasured)} questions, '{unmeasured[0]}' for "
            "one; all else is kept: run the same command again to measure these"
        )


def _check_failures(options: DifficultyOptions, group: Group, searches: dict[str, int]) -> None:
    made = [search for trajectory in group.trajectories for search in trajectory.searches]
    searches["made"] += sum(search.outcome != "refused" for search in made)
    searches["failed"] += sum(search.outcome == "failed" for search in made)
    limit = options.retrieval.max_failure_rate
    if searches["made"] >= MIN_SEARCHES and searches["failed"] > limit * searches["made"]:
        raise ComponentError(
            f"{searches['failed']} of {searches['made']} searches failed, more than "
            f"retrieval.max_failure_rate={limit:g}; see to the retriever"
        )


if __name__ == "__main__":
    run_entry(main)

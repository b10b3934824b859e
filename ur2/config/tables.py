"""Tables of what a run learns from: reward, curriculum, and what it must not learn from."""

from collections.abc import Iterable, Iterator, Sequence

from rich.table import Table
from rich.text import Text

from ur2.config.preflight import buckets
from ur2.config.schema import RunOptions
from ur2.curriculum.options import CurriculumOptions, StopOptions
from ur2.datasets.matching import Overlap
from ur2.rewards.options import Schedule, TermOptions
from ur2.types import Question


def make_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A titled table of plain cells, whose long ones are folded."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # a cell may hold square brackets
    return table


def reward_table(options: RunOptions) -> Table:
    """Terms with their weights by step, then how answers are graded and what bounds the sum."""
    reward = options.reward
    rows: list[tuple[str, ...]] = [
        (name, term.kind, _schedule(term.weight), _settings(term))
        for name, term in reward.terms.items()
    ]
    graded = ", ".join(f"{task} by {grader}" for task, grader in reward.graders.items())
    rows.append(("(answers are graded)", graded, "", ""))
    if reward.judge is not None:
        where = (
            reward.judge.url or f"no endpoint: without a verdict '{reward.judge.unscored}' counts"
        )
        rows.append(("(judge)", ", ".join(reward.judge.tasks), "", where))
    if reward.min_searches:
        rows.append(("(fewest searches)", "else a violation", _schedule(reward.min_searches), ""))
    if reward.clip is not None:
        rows.append(("(the sum is clipped)", f"{reward.clip[0]:g} to {reward.clip[1]:g}", "", ""))
    return make_table("reward", ("term", "kind", "weight", "settings"), rows)


def _schedule(schedule: Schedule) -> str:
    if not isinstance(schedule, tuple):
        return f"{schedule:g}"
    phases = [
        f"{phase.value:g}" + (f" to step {phase.until}" if phase.until else " from then on")
        for phase in schedule
    ]
    return ", ".join(phases)


def _settings(term: TermOptions) -> str:
    given = term.model_dump(mode="json", exclude_defaults=True, exclude={"kind", "weight"})
    return ", ".join(f"{key}={value}" for key, value in given.items())


def curriculum_tables(options: RunOptions, questions: Sequence[Question]) -> Iterator[Table]:
    """One table per stage of the run: what a step draws, and how often retrieval is on.

    Args:
        options: of the run.
        questions: the run's; a stage's own are not read.
    """
    curriculum = options.curriculum
    if not curriculum.stages:
        yield _bucket_table(f"curriculum: {curriculum.policy}", options, curriculum, questions)
    for stage in curriculum.stages:
        own = curriculum.of_stage(stage)
        known = questions if stage.questions is None else []
        table = _bucket_table(f"stage {stage.name}: {own.policy}", options, own, known)
        table.add_row("(reward)", stage.reward or "the run's", "", "")
        table.add_row("(lasts)", _end(stage.stop), "", "")
        yield table


def _end(stop: StopOptions | None) -> str:
    if stop is None:
        return "to the end"
    steps = "" if stop.steps is None else f"for {stop.steps} steps"
    plateau = "" if stop.plateau is None else f"until {stop.plateau.metric} no longer rises"
    return " or ".join(filter(None, (steps, plateau)))


def _bucket_table(
    title: str, options: RunOptions, curriculum: CurriculumOptions, questions: Sequence[Question]
) -> Table:
    """Per bucket: questions, how many of them a step draws, and how often retrieval is on."""
    counts = buckets(questions)
    weights = curriculum.bucket_weights or counts
    named = list(counts or dict.fromkeys([*curriculum.static, *curriculum.bucket_weights]))
    drawn = sum(weights.get(bucket, 0) for bucket in named)
    rows = []
    for bucket in named or ["(every bucket)"]:
        share = weights.get(bucket, 0) / drawn if drawn else None
        per_step = "?" if share is None else f"{share * options.trainer.questions_per_step:.1f}"
        rate = f"{retrieval_rate(curriculum, bucket):.2f}"
        on = "as measured" if curriculum.policy == "adaptive" else rate
        rows.append((bucket, str(counts.get(bucket, "?")), per_step, on))
    return make_table(title, ("bucket", "questions", "per step", "retrieval on"), rows)


def retrieval_rate(curriculum: CurriculumOptions, bucket: str) -> float:
    """The share of a bucket's groups that may search."""
    fixed = {"never": 0.0, "always": 1.0}
    return fixed.get(curriculum.policy, curriculum.static.get(bucket, 0.0))


def overlap_table(options: RunOptions, overlap: Overlap | None) -> Table:
    """How many training questions are held-out ones; None where a file is not here."""
    columns = ("training questions that are held-out ones", "number")
    if overlap is None:
        why = "unknown: both files must be here" if options.dataset.eval else "nothing is held out"
        return make_table("overlap", columns, [(why, "")])
    left_out = "left out" if options.dataset.exclude_overlap else "kept; see exclude_overlap=true"
    rows = (
        ("exactly", f"{overlap.num_exact:,} of {overlap.num_train:,}"),
        ("nearly", f"{overlap.num_near:,}"),
        ("they are", left_out),
    )
    return make_table("overlap", columns, rows)

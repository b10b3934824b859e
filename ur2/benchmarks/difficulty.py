"""The results of a measurement of difficulty: the question file, a report, tables and a plot."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from ur2.curriculum.difficulty import Gain, Tallies, gains, moves, num_uncertain, relevel
from ur2.curriculum.options import LevelOptions
from ur2.datasets.jsonl import write_jsonl
from ur2.files import write_text
from ur2.types import Level, Question


def publish(
    questions: Sequence[Question],
    tallies: Tallies,
    levels: LevelOptions,
    confidence: float,
    out: Path,
    console: Console,
) -> None:
    """Writes the question file, the report and the plot; prints the counts."""
    measured = relevel(questions, tallies, levels, confidence)
    found = gains(questions, tallies, confidence)
    path = out / "questions.jsonl"
    write_jsonl(str(path), measured)
    changed = moves(questions, measured)
    uncertain = num_uncertain(questions, tallies, levels, confidence)
    report = {
        "num_questions": len(questions),
        "num_uncertain": uncertain,
        "moves": [[*move, count] for move, count in sorted(changed.items())],
        "gains": [asdict(gain) for gain in found],
    }
    write_text(out / "report.json", json.dumps(report, indent=2) + "\n")
    console.print(_level_table(questions, measured))
    console.print(
        f"{uncertain} of {len(questions)} questions have an interval ({confidence:.0%}) that "
        "reaches into another level; more samples make it narrower",
        highlight=False,
        soft_wrap=True,
    )
    if found:
        console.print(_gain_table(found, confidence))
    plot = out / "levels.png"
    _figure(questions, measured, tallies, found).savefig(plot, dpi=120)
    console.print(f"questions: {path}; plot: {plot}", soft_wrap=True)


def _level_table(before: Sequence[Question], after: Sequence[Question]) -> Table:
    """Questions by bucket, before and as measured."""
    table = Table(title="questions by level", title_justify="left")
    for column in ("bucket", "before", "measured"):
        table.add_column(column, justify="left" if column == "bucket" else "right")
    counts = [Counter(question.bucket for question in questions) for questions in (before, after)]
    for task in sorted({question.task for question in before}):
        for level in Level:
            bucket = f"{task}/{level}"
            table.add_row(bucket, *(str(count[bucket]) for count in counts))
    return table


def _gain_table(found: Sequence[Gain], confidence: float) -> Table:
    table = Table(title="what retrieval adds, by bucket as given", title_justify="left")
    columns = ("bucket", "questions", "without", "with", f"gain ({confidence:.0%})", "searches")
    for column in (*columns, "gain per search"):
        table.add_column(column, justify="left" if column == "bucket" else "right")
    for one in found:
        per_search = "-" if one.gain_per_search is None else f"{one.gain_per_search:+.3f}"
        table.add_row(
            one.bucket,
            str(one.num_questions),
            f"{one.solved_without:.3f}",
            f"{one.solved_with:.3f}",
            f"{one.gain.value:+.3f} [{one.gain.low:+.3f}, {one.gain.high:+.3f}]",
            f"{one.searches_per_sample:.2f}",
            per_search,
        )
    return table


def _figure(
    before: Sequence[Question], after: Sequence[Question], tallies: Tallies, found: Sequence[Gain]
) -> Figure:
    """Counts by level, the distribution of pass rates, and gains where they were measured."""
    figure = Figure(figsize=(14 if found else 9, 4), layout="constrained")
    levels, rates, *rest = figure.subplots(1, 3 if found else 2)
    places = range(len(Level))
    for shift, label, questions in ((-0.2, "before", before), (0.2, "measured", after)):
        counts = [sum(q.level is level for q in questions) for level in Level]
        bars = levels.bar([p + shift for p in places], counts, 0.38, label=label)
        levels.bar_label(bars, fontsize=8)
    levels.set_xticks(list(places), [level.value for level in Level])
    levels.set_title("questions by level")
    levels.legend(fontsize=8)
    for retrieval, label in ((False, "without"), (True, "with")):
        values = [t.pass_rate for (_, mode), t in tallies.items() if mode is retrieval]
        if values:
            rates.hist(values, bins=20, range=(0, 1), alpha=0.6, label=f"{label} retrieval")
    rates.set_title("pass rates")
    rates.legend(fontsize=8)
    for axes in rest:
        values = [one.gain.value for one in found]
        errors = [
            [one.gain.value - one.gain.low for one in found],
            [one.gain.high - one.gain.value for one in found],
        ]
        axes.bar([one.bucket for one in found], values, yerr=errors, capsize=4)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.tick_params(axis="x", rotation=30)
        axes.set_title("gain from retrieval")
    return figure

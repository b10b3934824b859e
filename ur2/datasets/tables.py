"""Tables and histograms that the dataset commands print."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ur2.datasets.matching import Match, Overlap
from ur2.types import Level, Question

BAR_WIDTH = 30
"""Characters of a histogram's longest bar."""

MAX_SUBJECTS = 40
"""Subjects above which a file's are topics, too many for a table."""

EXAMPLE_CHARS = 160
"""Characters of a question that an example shows."""


def show_questions(path: str, questions: Sequence[Question]) -> None:
    """Prints counts by source, task, subject and level, and how long questions and golds are.

    The first question of each task shows what was understood.
    """
    console = Console()
    console.print(Text(f"{path}: {len(questions):,} questions", style="bold"), soft_wrap=True)
    console.print(_level_table("source", Counter((_source(q), q.level) for q in questions)))
    console.print(_level_table("task", Counter((q.task, q.level) for q in questions)))
    subjects = Counter((q.subject or "none", q.level) for q in questions)
    if 1 < len({name for name, _ in subjects}) <= MAX_SUBJECTS:
        console.print(_level_table("subject", subjects))
    for task in sorted({q.task for q in questions}):
        console.print(_first(next(q for q in questions if q.task == task)), soft_wrap=True)
    console.print(_histogram("question, characters", [len(q.text) for q in questions]))
    console.print(_histogram("longest gold, characters", [_longest_gold(q) for q in questions]))


def show_overlap(by_file: Mapping[str, Overlap], together: Overlap, *, num_examples: int) -> None:
    """Prints how many training questions each held-out file and all of them hold, with examples.

    Of the near matches the least similar come first: they are the doubtful ones.
    """
    console = Console()
    console.print(
        Text(
            f"{together.num_train:,} training questions ({together.num_distinct_train:,} distinct)",
            style="bold",
        ),
        soft_wrap=True,
    )
    table = Table("found in", "exactly", "distinct", "nearly", "left")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, overlap in (*by_file.items(), ("all", together)):
        counts = (
            overlap.num_exact,
            overlap.num_distinct_exact,
            overlap.num_near,
            overlap.num_train - len(overlap.matches),
        )
        table.add_row(Text(Path(name).name), *(f"{count:,}" for count in counts))
    console.print(table)
    exact = [match for match in together.matches if match.exact]
    near = sorted((m for m in together.matches if not m.exact), key=lambda m: m.similarity)
    for match in (*exact[:num_examples], *near[:num_examples]):
        console.print(_example(match), soft_wrap=True)


def show_written(path: str, num_rows: int) -> None:
    """Prints what was written where."""
    Console().print(Text(f"{num_rows:,} questions are left: {path}"), soft_wrap=True)


def _source(question: Question) -> str:
    return question.meta.get("source") or Path(question.source).name


def _longest_gold(question: Question) -> int:
    return max(len(gold) for gold in question.answers)


def _level_table(heading: str, counts: Mapping[tuple[str, Level], int]) -> Table:
    """One row per name, one column per level, and sums."""
    table = Table(heading, *(level.value for level in Level), "all")
    for column in table.columns[1:]:
        column.justify = "right"
    for name in sorted({name for name, _ in counts}):
        row = [counts.get((name, level), 0) for level in Level]
        table.add_row(Text(name), *(f"{count:,}" for count in (*row, sum(row))))
    return table


def _first(question: Question) -> Text:
    """Shows how a question was understood."""
    lettered = zip(ascii_uppercase, question.options, strict=False)
    lines = [
        f"first of {question.task}: {_one_line(question.text)}",
        *(f"  {letter}. {_one_line(option)}" for letter, option in lettered),
        f"  answers: {_one_line('; '.join(question.answers))} ({question.level.value})",
    ]
    return Text("\n".join(lines))


def _histogram(title: str, lengths: Sequence[int]) -> Table:
    """Bins that double, so that short and long texts show alike."""
    bins = Counter(length.bit_length() for length in lengths)
    table = Table(title, "questions", "", show_header=True)
    table.columns[1].justify = "right"
    for bits in range(min(bins), max(bins) + 1):
        low, high = (1 << bits) >> 1, (1 << bits) - 1
        bar = "█" * round(BAR_WIDTH * bins[bits] / max(bins.values()))
        table.add_row(f"{low:,} to {high:,}", f"{bins[bits]:,}", bar)
    return table


def _example(match: Match) -> Text:
    kind = "exact" if match.exact else f"near, {match.similarity:.2f}"
    sides = (("train", match.train), ("held out", match.held_out))
    lines = [f"  {side} {q.id}: {_one_line(q.text)}" for side, q in sides]
    return Text("\n".join([kind, *lines]))


def _one_line(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= EXAMPLE_CHARS else f"{flat[: EXAMPLE_CHARS - 3]}..."

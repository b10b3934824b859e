"""The progress of a run on the terminal, and its record on disk."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import nan
from typing import Any

import psutil
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from ur2.trainer.record.plots import draw
from ur2.trainer.record.run_directory import RunDirectory
from ur2.trainer.record.trackers import Trackers
from ur2.types import ScoredGroup

logger = logging.getLogger(__name__)


Evaluated = Mapping[str, Any] | None


class Reporter:
    """Sends each step to metrics.jsonl, the trackers and the screen."""

    def __init__(
        self,
        run: RunDirectory,
        trackers: Trackers,
        *,
        num_steps: int,
        dump_trajectories: bool,
        console: Console,
    ) -> None:
        self.run = run
        self.trackers = trackers
        self.num_steps = num_steps
        self.dump_trajectories = dump_trajectories
        self.console = console
        self._started: tuple[float, int] | None = None

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Records one finished step and says how far the run is."""
        metrics = {
            "step": step,
            **metrics,
            "memory/driver_rss_bytes": float(psutil.Process().memory_info().rss),
        }
        self.run.append_metrics(metrics)
        self.trackers.log(metrics, step)
        reward, accuracy = (metrics.get(key, nan) for key in ("reward/mean", "accuracy/mean"))
        line = (
            f"step {step:>4}/{self.num_steps}  reward {reward:+.3f}  "
            f"accuracy {accuracy:.3f}  searches {metrics['search/mean']:.2f}  "
            f"{metrics['time/step_s']:.1f} s/step  {self._eta(step, metrics['time/step_s'])} left"
        )
        self.console.print(line, highlight=False, soft_wrap=True)
        logger.info(line)

    def trajectories(self, step: int, groups: Sequence[ScoredGroup]) -> None:
        """Writes the step's trajectories, if the options ask for them."""
        if self.dump_trajectories:
            self.run.write_trajectories(step, groups)

    def refused(self, step: int, sample_ids: Sequence[str], groups: Sequence[ScoredGroup]) -> None:
        """Keeps an update that was refused: which samples broke it, and all that it was made of."""
        path = self.run.write_refused(step, sample_ids)
        self.run.write_trajectories(step, groups)
        self.console.print(f"step {step} was refused; its samples: {path}", soft_wrap=True)

    def events(self, events: Sequence[object]) -> None:
        """Says what was decided, here and in the run's log."""
        for event in events:
            self.console.print(str(event), highlight=False, soft_wrap=True)
            logger.info("%s", event)

    def finish(self, facts: Mapping[str, Any], before: Evaluated, after: Evaluated) -> None:
        """Draws the plots, writes summary.json and prints what changed."""
        plots = draw(self.run.plots, self.run.read_metrics(), before, after)
        self.run.write_summary({**facts, "before": before, "after": after})
        if before and after:
            self.console.print(_comparison(before, after))
        self.console.print(f"plots: {len(plots)} in {self.run.plots}", soft_wrap=True)
        self.console.print(f"summary: {self.run.summary_path}", soft_wrap=True)

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Callable[[], None]]:
        """A bar with the time left; a plain line where the output is no terminal."""
        started = time.perf_counter()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(
            *columns,
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        ) as bar:
            task = bar.add_task(label, total=total)
            yield lambda: bar.advance(task)
        self.console.print(f"{label}: {total} in {time.perf_counter() - started:.1f} s")

    def _eta(self, step: int, step_seconds: float) -> str:
        """Time left at the mean pace since this process began."""
        if self._started is None:
            self._started = (time.perf_counter() - step_seconds, step - 1)
        began, first = self._started
        seconds = (time.perf_counter() - began) / (step - first) * (self.num_steps - step)
        return f"{int(seconds // 3600)}:{int(seconds % 3600 // 60):02d}:{int(seconds % 60):02d}"


def _comparison(before: Mapping[str, Any], after: Mapping[str, Any]) -> Table:
    """Accuracy and searches per question on held-out questions, by bucket."""
    table = Table(title=f"{after['num_questions']} held-out questions", title_justify="left")
    for column in ("bucket", "accuracy before", "after", "searches before", "after"):
        table.add_column(column, justify="left" if column == "bucket" else "right")
    keys = ("accuracy_by_bucket", "searches_by_bucket")
    for bucket in (b for b in before[keys[0]] if b in after[keys[0]]):
        cells = [f"{part[key][bucket]:.2f}" for key in keys for part in (before, after)]
        table.add_row(bucket, *cells)
    table.add_row("all", f"{before['accuracy']:.2f}", f"{after['accuracy']:.2f}", "", "")
    return table

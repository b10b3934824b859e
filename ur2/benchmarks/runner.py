"""Plays what is left of a benchmark, and grades and stores each question as soon as it is done."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ur2.benchmarks.grading import BenchmarkItem, GivesVerdicts, grade
from ur2.benchmarks.options import BenchmarkOptions
from ur2.benchmarks.store import EvaluationFolder
from ur2.errors import ComponentError
from ur2.rollout.options import SamplingOptions
from ur2.rollout.pool.rollout_pool import RolloutPool
from ur2.rollout.tasks import gather_or_cancel
from ur2.types import Assignment, Group, Question

NUM_GRADERS = 16
"""Questions graded at once: judges are slow to answer."""
MIN_SEARCHES = 20
"""Searches before their failure rate is judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A benchmark with its questions."""

    name: str
    options: BenchmarkOptions
    questions: Sequence[Question]
    """All of its file."""
    limit: int | None = None
    """Only this many of them are played, from the first."""

    @property
    def played(self) -> Sequence[Question]:
        """The questions that are played."""
        return self.questions[: self.limit]


class Runner:
    """Evaluates one policy.

    Args:
        rollouts: started workers.
        store: where items go.
        sampling: how answers are drawn.
        search: whether episodes may search.
        max_failure_rate: the share of failed searches past which the evaluation stops.
        judge: grades for `judge` metrics; None leaves them unjudged.
    """

    def __init__(
        self,
        rollouts: RolloutPool,
        store: EvaluationFolder,
        *,
        sampling: SamplingOptions,
        search: bool,
        max_failure_rate: float,
        judge: GivesVerdicts | None = None,
    ) -> None:
        self._rollouts = rollouts
        self._store = store
        self._sampling = sampling
        self._search = search
        self._max_failure_rate = max_failure_rate
        self._judge = judge
        self._num_searches = 0
        self._num_failed = 0

    async def run(self, benchmark: Benchmark, on_item: Callable[[], None]) -> list[BenchmarkItem]:
        """Plays the questions that have no item yet; returns all items, in file order.

        Args:
            benchmark: what to play.
            on_item: called after each question, and at once for those that were done before.

        Raises:
            ComponentError: an engine failed, or too many searches did; items done so far stay.
        """
        items = self._store.read_items(benchmark.name, benchmark.questions)
        left = [question for question in benchmark.played if question.id not in items]
        for _ in range(len(benchmark.played) - len(left)):
            on_item()
        assignments = [self._assignment(benchmark.name, question) for question in left]
        played: asyncio.Queue[Group | None] = asyncio.Queue()

        async def play() -> None:
            await self._rollouts.collect(assignments, 1, self._sampling, on_group=played.put_nowait)
            for _ in range(NUM_GRADERS):
                played.put_nowait(None)

        async def grade_played() -> None:
            while (group := await played.get()) is not None:
                item = await grade(group, benchmark.options, self._judge)
                self._check_failures(item)
                self._store.append(benchmark.name, item)
                items[item.id] = item
                on_item()

        await gather_or_cancel([play(), *(grade_played() for _ in range(NUM_GRADERS))])
        return [items[question.id] for question in benchmark.played]

    def _assignment(self, name: str, question: Question) -> Assignment:
        return Assignment(
            id=f"{name}/{question.id}",
            question=question,
            retrieval=self._search,
            reason="evaluation",
            step=0,
        )

    def _check_failures(self, item: BenchmarkItem) -> None:
        self._num_searches += item.num_searches
        self._num_failed += item.num_failed_searches
        if (
            self._num_searches >= MIN_SEARCHES
            and self._num_failed > self._max_failure_rate * self._num_searches
        ):
            raise ComponentError(
                f"{self._num_failed} of {self._num_searches} searches failed, more than "
                f"retrieval.max_failure_rate={self._max_failure_rate:g}; see to the retriever, "
                "then continue with retry_failures=true"
            )

"""Scripted rollouts: a worker that ends each question as told, without a model."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from ur2.benchmarks.options import BenchmarkOptions
from ur2.benchmarks.runner import Benchmark, Runner
from ur2.benchmarks.store import EvaluationFolder
from ur2.rollout.options import RolloutOptions, SamplingOptions
from ur2.rollout.pool.rollout_pool import RolloutPool
from ur2.transfer.records import Handover
from ur2.types import (
    Assignment,
    Author,
    Group,
    Level,
    Question,
    Segment,
    Status,
    ToolUse,
    Trajectory,
)

EXACT = BenchmarkOptions(title="T", file="f", task="qa", metrics=("exact_match", "f1"))


@dataclass
class ScriptedWorker:
    """Answers alike, but for the ends that the script says, by question id."""

    statuses: Mapping[str, Status] = field(default_factory=dict)
    dies_at: str | None = None
    answer: str = "Paris"
    played: list[str] = field(default_factory=list)
    retrievals: set[bool] = field(default_factory=set)

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def take(self, handover: Handover, version: int) -> None: ...

    async def run_group(
        self,
        assignment: Assignment,
        num_samples: int,
        sampling: SamplingOptions,
        first: int = 0,
        branches: object = (),
    ) -> Group:
        await asyncio.sleep(0)
        question = assignment.question
        if question.id == self.dies_at:
            await asyncio.sleep(0.05)
            raise asyncio.CancelledError
        self.played.append(question.id)
        self.retrievals.add(assignment.retrieval)
        status = self.statuses.get(question.id, Status.ANSWERED)
        text = f"<answer> {self.answer} </answer>" if status is Status.ANSWERED else "so"
        searches = ()
        if status is Status.TOOL_FAILED:
            searches = (ToolUse(tool="search", arguments={"query": "q"}, outcome="failed"),)
        turn = Segment(author=Author.POLICY, token_ids=(1,), text=text, logprobs=(0.0,))
        trajectory = Trajectory(
            id=f"{assignment.id}/0",
            segments=(turn,),
            events=searches,
            status=status,
            answer=self.answer if status is Status.ANSWERED else None,
        )
        return Group(assignment=assignment, trajectories=(trajectory,))


def make_questions(num: int, *, gold: str = "Paris") -> list[Question]:
    return [
        Question(id=f"q{i}", task="qa", text=f"Where {i}?", answers=(gold,), level=Level.EASY)
        for i in range(num)
    ]


@dataclass
class Bench:
    """One benchmark over scripted rollouts, with its folder."""

    store: EvaluationFolder
    questions: Sequence[Question]
    options: BenchmarkOptions = EXACT
    limit: int | None = None

    @property
    def benchmark(self) -> Benchmark:
        return Benchmark(name="t", options=self.options, questions=self.questions, limit=self.limit)

    async def run(self, worker: ScriptedWorker, judge=None, max_failure_rate: float = 1.0):
        runner = Runner(
            RolloutPool([worker], RolloutOptions()),
            self.store,
            sampling=SamplingOptions(),
            search=True,
            max_failure_rate=max_failure_rate,
            judge=judge,
        )
        return await runner.run(self.benchmark, lambda: None)


@pytest.fixture
def bench(tmp_path) -> Bench:
    store = EvaluationFolder(str(tmp_path / "out"))
    store.open({"checkpoint": "x", "benchmarks": {"t": {"file": "f"}}})
    return Bench(store=store, questions=make_questions(12))


@pytest.fixture
def worker() -> type[ScriptedWorker]:
    return ScriptedWorker


@pytest.fixture
def questions():
    return make_questions

import asyncio
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from rich.console import Console

from ur2.algorithms.options import AlgorithmOptions
from ur2.curriculum.curriculum import Curriculum
from ur2.curriculum.options import CurriculumOptions
from ur2.errors import ComponentError, InputError, NotFiniteError, RunInterruptedError
from ur2.policy.group import PolicyGroup
from ur2.policy.options import PolicyOptions
from ur2.rollout.options import RolloutOptions, SamplingOptions
from ur2.rollout.pool.seating import Loss, PlayAccount, WorkerAccount
from ur2.trainer.checkpoint import Checkpoints, LoopState
from ur2.trainer.loop import Trainer
from ur2.trainer.options import TrainerOptions
from ur2.trainer.record.clock import Clock
from ur2.trainer.record.reporting import Reporter
from ur2.trainer.record.run_directory import RunDirectory
from ur2.trainer.record.timeline import Timeline
from ur2.trainer.record.trackers import Trackers
from ur2.transfer.publication import Files
from ur2.types import (
    Assignment,
    Author,
    Batch,
    Group,
    Level,
    Question,
    Score,
    ScoredGroup,
    Segment,
    Status,
    ToolUse,
    Trajectory,
    VersionRun,
)

QUESTIONS = [
    Question(id=f"q{i}", task="qa", text=f"{i}?", answers=("!",), level=level)
    for i, level in enumerate([Level.EASY, Level.HARD] * 10)
]


class ScriptedRollouts:
    """Plays groups without a model and remembers what it was asked."""

    def __init__(self, outcome: str = "found") -> None:
        self.outcome = outcome
        self.assignments: list[Assignment] = []
        self.samplings: dict[str, object] = {}
        self.versions: list[int] = [0]
        self.num_lost = 0
        self.before_step: Callable[[int], None] = lambda step: None

    async def collect(
        self, assignments: Sequence[Assignment], num_samples: int, sampling: object, **_: object
    ) -> list[Group]:
        return [await self.play(assignment, num_samples, sampling) for assignment in assignments]

    async def play(self, assignment: Assignment, num_samples: int, sampling: object) -> Group:
        self.before_step(assignment.step)
        await asyncio.sleep(0)
        self.assignments.append(assignment)
        self.samplings[assignment.id] = sampling
        return self._group(assignment, num_samples)

    def take_account(self) -> PlayAccount:
        return PlayAccount(wall_s=2.0, workers=(WorkerAccount(num_sampled_tokens=500, busy_s=1.5),))

    async def take_writing_s(self) -> float:
        return 1.0

    async def take_loss(self) -> Loss:
        lost, self.num_lost = self.num_lost, 0
        return Loss(num_tokens=lost, played_s=0.5)

    def write_off(self, group: Group) -> None:
        self.num_lost += sum(t.num_policy_tokens for t in group.trajectories)

    @property
    def searches_known_s(self) -> float:
        return time.time()

    async def take(self, publication: Files) -> None:
        self.versions.append(publication.version)

    def _group(self, assignment: Assignment, num_samples: int) -> Group:
        search = ToolUse(tool="search", arguments={"query": "x"}, outcome=self.outcome)  # type: ignore[arg-type]
        return Group(
            assignment=assignment,
            trajectories=tuple(
                Trajectory(
                    id=f"{assignment.id}/{i}",
                    segments=(
                        Segment(author=Author.PROMPT, token_ids=(1,), text=""),
                        Segment(
                            author=Author.POLICY,
                            token_ids=(2, 3),
                            text="",
                            logprobs=(-1.0, -1.0),
                            weight_versions=(VersionRun(self.versions[-1], 2),),
                        ),
                    ),
                    events=(search,),
                    status=Status.ANSWERED,
                )
                for i in range(num_samples)
            ),
        )


class ScriptedRubric:
    def __init__(self) -> None:
        self.steps: list[int] = []

    async def score(self, group: Group, step: int) -> ScoredGroup:
        self.steps.append(step)
        return (await self.score_all([group], step))[0]

    async def score_all(self, groups: list[Group], step: int) -> list[ScoredGroup]:
        return [ScoredGroup(group=group, scores=self._scores(group)) for group in groups]

    def _scores(self, group: Group) -> tuple[Score, ...]:
        return tuple(
            Score(total=float(i % 2), parts={"answer": float(i % 2)}, correct=float(i % 2))
            for i in range(len(group.trajectories))
        )


class ScriptedRank:
    """A policy whose only parameter counts its updates, saved and loaded like a real one."""

    def __init__(self) -> None:
        self.updates = 0
        self.fail_at = -1
        self.update_s = 0.0

    async def call(self, method: str, *args: Any) -> Any:
        if method == "update":
            if self.updates == self.fail_at:
                raise NotFiniteError("NaN", ("000004-0001/1",))
            await asyncio.sleep(self.update_s)
            self.updates += 1
            return {"policy/loss": 0.0}
        if method == "save":
            Path(args[0]).mkdir(exist_ok=True)
            np.save(Path(args[0]) / "updates.npy", self.updates)
        if method == "load":
            self.updates = int(np.load(Path(args[0]) / "updates.npy"))
        if method == "export":
            Path(args[0]).mkdir(exist_ok=True)
        return None


STATIC = CurriculumOptions(policy="static", static={"qa/hard": 0.5})
STAGES = CurriculumOptions.load(
    {
        "policy": "adaptive",
        "stages": [
            {"name": "search", "policy": "always", "reward": "form", "stop": {"steps": 3}},
            {"name": "answer"},
        ],
    },
    where="curriculum",
)


def make_trainer(
    folder: Path,
    *,
    steps: int = 4,
    outcome: str = "found",
    curriculum_options: CurriculumOptions = STATIC,
    **trainer_options: Any,
) -> Trainer:
    run = RunDirectory(folder)
    run.open({})
    curriculum = Curriculum(QUESTIONS, curriculum_options, seed=3, questions_per_step=4)
    options = TrainerOptions(
        steps=steps, questions_per_step=4, checkpoint_every=2, **trainer_options
    )
    timeline = Timeline(folder / "timeline.json")
    policy = PolicyGroup([ScriptedRank()], PolicyOptions(), folder / "weights", trace=timeline.add)

    async def service_metrics() -> dict[str, float]:
        return {}

    return Trainer(
        options=options,
        rollout=RolloutOptions(samples_per_prompt=2),
        algorithm=AlgorithmOptions(),
        max_failure_rate=0.1,
        curriculum=curriculum,
        rollouts=ScriptedRollouts(outcome),  # type: ignore[arg-type]
        rubrics={None: ScriptedRubric(), "form": ScriptedRubric()},  # type: ignore[dict-item]
        policy=policy,
        questions=QUESTIONS,
        held_out=QUESTIONS[:4],
        service_metrics=service_metrics,
        checkpoints=Checkpoints(run, policy, keep=2),
        reporter=Reporter(
            run, Trackers({}), num_steps=steps, dump_trajectories=False, console=Console(quiet=True)
        ),
        clock=Clock(timeline),
        timeline=timeline,
        state=LoopState(curriculum=curriculum.state_dict()),
        stop=asyncio.Event(),
    )


def training_stream(trainer: Trainer) -> list[tuple[str, bool]]:
    rollouts: Any = trainer.rollouts
    return [
        (a.question.id, a.retrieval) for a in rollouts.assignments if not a.id.startswith("eval")
    ]


async def resumed(folder: Path, steps: int = 4, **options: Any) -> Trainer:
    trainer = make_trainer(folder, steps=steps, **options)
    newest = trainer.checkpoints.run.newest_checkpoint()
    assert newest is not None
    await trainer.resume(newest)
    return trainer


async def test_every_step_updates_once_and_publishes_the_next_version(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    await trainer.run()
    rank: Any = trainer.policy.ranks[0]
    rollouts: Any = trainer.rollouts
    assert rank.updates == 4
    assert rollouts.versions == [0, 1, 2, 3, 4]
    metrics = trainer.reporter.run.read_metrics()
    assert [m["step"] for m in metrics] == [1, 2, 3, 4]
    assert all(m["rollout/staleness_mean"] == 0 for m in metrics)


class SharedMemory:
    """Room for the engines or for the policy's computing, never both."""

    def __init__(self, trainer: Trainer) -> None:
        self.awake, self.weights, self.sleeps = False, True, 0
        self.kept = True
        """What the policy has computed with and not released."""
        rollouts: Any = trainer.rollouts
        play, update = rollouts.play, rollouts.take
        rank: Any = trainer.policy.ranks[0]
        compute = rank.call

        async def played(*args: Any) -> Group:
            assert self.awake
            return cast("Group", await play(*args))

        async def updated(*args: Any) -> None:
            assert not self.kept
            await update(*args)
            self.weights = True

        async def computed(method: str, *args: Any) -> Any:
            assert not (self.awake and method in ("update", "load"))
            self.kept = method != "release_memory" and (self.kept or method in ("update", "load"))
            return await compute(method, *args)

        rollouts.play, rollouts.take, rank.call = played, updated, computed
        rollouts.sleep, rollouts.wake = self.sleep, self.wake
        trainer.colocated = True

    async def sleep(self, *, keep_weights: bool) -> None:
        assert self.awake
        self.awake, self.weights, self.sleeps = False, keep_weights, self.sleeps + 1

    async def wake(self) -> None:
        assert self.weights
        assert not self.kept
        self.awake = True


async def test_colocated_engines_sleep_while_the_policy_computes_and_wake_with_its_weights(
    tmp_path: Path,
) -> None:
    trainer = make_trainer(tmp_path)
    trainer.options = trainer.options.model_copy(update={"eval_every": 1})
    memory = SharedMemory(trainer)
    await trainer.run()
    assert memory.sleeps == 4
    rollouts: Any = trainer.rollouts
    assert rollouts.versions == [0, 1, 2, 3, 4]
    assert all("time/sleep_s" in m for m in trainer.reporter.run.read_metrics())


async def test_a_colocated_run_that_is_continued_wakes_its_engines_once_they_have_weights(
    tmp_path: Path,
) -> None:
    await make_trainer(tmp_path, steps=2).run()
    trainer = make_trainer(tmp_path, steps=4)
    memory = SharedMemory(trainer)
    newest = trainer.checkpoints.run.newest_checkpoint()
    assert newest is not None
    await trainer.resume(newest)
    assert memory.awake
    await trainer.run()
    assert memory.sleeps == 2


async def test_named_phases_account_for_a_step(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    rollouts: Any = trainer.rollouts
    rollouts.before_step = lambda step: time.sleep(0.05)
    await trainer.run()
    for metrics in trainer.reporter.run.read_metrics():
        phases = [v for k, v in metrics.items() if k.startswith("time/") and k != "time/step_s"]
        assert sum(phases) == pytest.approx(metrics["time/step_s"], rel=0.1)


async def test_the_trainer_is_idle_but_for_the_update(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    rollouts: Any = trainer.rollouts
    rollouts.before_step = lambda step: time.sleep(0.05)
    rank: Any = trainer.policy.ranks[0]
    rank.update_s = 0.1
    await trainer.run()
    for metrics in trainer.reporter.run.read_metrics():
        busy = metrics["time/update_s"] / metrics["time/step_s"]
        assert 0.2 < busy < 0.8
        assert metrics["idle/trainer"] == pytest.approx(1 - busy, abs=0.15)
        assert metrics["idle/retrieval"] == 1.0


async def test_a_run_that_was_killed_before_its_first_checkpoint_leaves_no_metrics(
    tmp_path: Path,
) -> None:
    killed = RunDirectory(tmp_path)
    killed.open({})
    killed.append_metrics({"step": 1, "reward/mean": -9.0})
    with killed.metrics_path.open("a") as file:
        file.write('{"step": 2, "rewa')
    await make_trainer(tmp_path, steps=3).run()
    metrics = killed.read_metrics()
    assert [m["step"] for m in metrics] == [1, 2, 3]
    assert metrics[0]["reward/mean"] == 0.5


async def test_sampled_tokens_count_by_the_wall_time_not_by_what_the_loop_waited_for_them(
    tmp_path: Path,
) -> None:
    trainer = make_trainer(tmp_path, steps=2)
    await trainer.run()
    for metrics in trainer.reporter.run.read_metrics():
        assert metrics["throughput/sampled_tokens_per_s"] == 250.0
        assert metrics["idle/rollout"] == 0.25
        assert metrics["idle/engine"] == 0.5


class SlowDullRubric(ScriptedRubric):
    """Takes its time for some groups, and gives some the same reward throughout."""

    async def score(self, group: Group, step: int) -> ScoredGroup:
        number = int(group.assignment.question.id[1:])
        for _ in range(number % 5 * 7):
            await asyncio.sleep(0)
        scored = await super().score(group, step)
        return scored if number % 3 else replace(scored, scores=scored.scores[:1] * 2)


@pytest.mark.parametrize(
    "options",
    [
        {"num_extra_groups": 3, "tail": "give_up"},
        {"num_extra_groups": 3, "max_refills": 2, "tail": "give_up"},
        {"mode": "async", "max_refills": 4},
    ],
)
async def test_all_that_was_sampled_is_accepted_rejected_or_lost(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    trainer = make_trainer(tmp_path, steps=6, **options)
    trainer.held_out = ()
    trainer.rubrics = {None: SlowDullRubric()}  # type: ignore[dict-item]
    await trainer.run()
    rollouts: Any = trainer.rollouts
    metrics = trainer.reporter.run.read_metrics()
    parts = {
        name: sum(m[f"rollout/{name}_tokens"] for m in metrics)
        for name in ("accepted", "rejected", "lost")
    }
    assert sum(parts.values()) == 2 * 2 * len(rollouts.assignments)
    assert parts["rejected"] > 0
    assert (parts["lost"] > 0) == ("tail" in options)
    for m in metrics:
        wasted = m["rollout/rejected_tokens"] + m["rollout/lost_tokens"]
        whole = wasted + m["rollout/accepted_tokens"]
        assert m["rollout/wasted_token_fraction"] == pytest.approx(wasted / whole)
        assert m["rollout/lost_s"] == 0.5


async def test_schedules_follow_the_loop_through_steps_without_signal(tmp_path: Path) -> None:
    class Dull(ScriptedRubric):
        async def score(self, group: Group, step: int) -> ScoredGroup:
            scored = await super().score(group, step)
            return scored if step == 3 else replace(scored, scores=scored.scores[:1] * 2)

    trainer = make_trainer(tmp_path, steps=3)
    trainer.rubrics = {None: Dull()}  # type: ignore[dict-item]
    policy: Any = trainer.policy
    seen, update = [], policy.update

    async def watched(batch: Batch, step: int) -> Any:
        seen.append(step)
        return await update(batch, step)

    policy.update = watched
    await trainer.run()
    assert seen == [3]


async def test_what_is_lost_before_the_first_step_is_no_steps_loss(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, steps=2)
    rollouts: Any = trainer.rollouts
    rollouts.num_lost = 1000  # while held-out questions were played
    await trainer.run()
    assert [m["rollout/lost_tokens"] for m in trainer.reporter.run.read_metrics()] == [0.0, 0.0]


async def test_without_staleness_an_asynchronous_run_is_the_synchronous_one(
    tmp_path: Path,
) -> None:
    batches: dict[str, list[list[str]]] = {"sync": [], "async": []}
    metrics = []
    for mode, seen in batches.items():
        trainer = make_trainer(tmp_path / mode, mode=mode, max_staleness=0, max_refills=3)
        trainer.rubrics = {None: SlowDullRubric()}  # type: ignore[dict-item]
        policy: Any = trainer.policy
        update = policy.update

        async def watched(batch: Batch, step: int, seen: Any = seen, update: Any = update) -> Any:
            seen.append([sample.id for sample in batch.samples])
            return await update(batch, step)

        policy.update = watched
        await trainer.run()
        measured = ("time/", "throughput/", "idle/", "memory/")
        metrics.append(
            [
                {key: value for key, value in step.items() if not key.startswith(measured)}
                for step in trainer.reporter.run.read_metrics()
            ]
        )
    assert batches["async"] == batches["sync"]
    assert all(batches["sync"])
    assert metrics[0] == metrics[1]


async def test_every_phase_and_worker_is_on_the_timeline(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, steps=1)
    await trainer.run()
    spans = [e for e in json.loads((tmp_path / "timeline.json").read_text()) if "args" in e]
    lanes = {e["args"]["name"] for e in spans if e["name"] == "process_name"}
    assert lanes == {"loop", "policy rank 0", "rewards"}


async def test_interrupted_and_resumed_replays_the_stream_of_a_whole_run(tmp_path: Path) -> None:
    whole = make_trainer(tmp_path / "whole")
    await whole.run()

    first = make_trainer(tmp_path / "parts")
    rollouts: Any = first.rollouts
    rollouts.before_step = lambda step: first.stop.set() if step == 3 else None
    with pytest.raises(RunInterruptedError):
        await first.run()
    assert first.state.step == 2

    second = await resumed(tmp_path / "parts")
    await second.run()
    seen = training_stream(first)[: 2 * 4] + training_stream(second)
    assert seen == training_stream(whole)
    rank: Any = second.policy.ranks[0]
    assert rank.updates == 4
    assert second.state.before == whole.state.before


async def test_a_run_that_goes_back_to_an_older_checkpoint_keeps_what_it_then_makes(
    tmp_path: Path,
) -> None:
    await make_trainer(tmp_path).run()
    again = make_trainer(tmp_path)
    await again.resume(tmp_path / "checkpoints" / "step_000002")
    rank: Any = again.policy.ranks[0]
    rank.updates = 40
    await again.run()
    assert np.load(await again.save() / "policy" / "updates.npy") == 42


async def test_a_failed_update_leaves_the_last_checkpoint_and_no_half_made_one(
    tmp_path: Path,
) -> None:
    trainer = make_trainer(tmp_path)
    rank: Any = trainer.policy.ranks[0]
    rank.fail_at = 3
    with pytest.raises(ComponentError, match="NaN"):
        await trainer.run()
    newest = trainer.checkpoints.run.newest_checkpoint()
    assert newest is not None
    assert newest.name == "step_000002"
    refused = json.loads((tmp_path / "refused_step_000004.json").read_text())
    assert refused == {"step": 4, "sample_ids": ["000004-0001/1"]}
    assert (tmp_path / "trajectories" / "step_000004.jsonl.zst").exists()


@pytest.mark.parametrize("what", ["take", "collect"])
async def test_what_fails_after_an_update_leaves_its_checkpoint_and_its_metrics(
    tmp_path: Path, what: str
) -> None:
    trainer = make_trainer(tmp_path, eval_every=1)
    rollouts: Any = trainer.rollouts
    call = getattr(rollouts, what)

    async def fail(*args: Any, **rest: Any) -> Any:
        if trainer.policy.ranks[0].updates == 3:  # type: ignore[attr-defined]
            raise ComponentError("the engine died")
        return await call(*args, **rest)

    setattr(rollouts, what, fail)
    with pytest.raises(ComponentError, match="the engine died"):
        await trainer.run()
    newest = trainer.checkpoints.run.newest_checkpoint()
    assert newest is not None
    assert newest.name == "step_000003"
    again = await resumed(tmp_path)
    await again.run()
    assert [m["step"] for m in again.reporter.run.read_metrics()] == [1, 2, 3, 4]
    rank: Any = again.policy.ranks[0]
    assert rank.updates == 4


@pytest.mark.parametrize("error", [InputError("too long"), ValueError("a bug")])
async def test_whatever_ends_a_run_leaves_a_checkpoint_of_the_steps_before(
    tmp_path: Path, error: Exception
) -> None:
    trainer = make_trainer(tmp_path)
    rollouts: Any = trainer.rollouts

    def fail(step: int) -> None:
        if step == 4:
            raise error

    rollouts.before_step = fail
    with pytest.raises(type(error), match=str(error)):
        await trainer.run()
    assert (tmp_path / "checkpoints" / "step_000003").is_dir()


async def test_too_many_failed_searches_stop_the_run_with_a_checkpoint(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, outcome="failed")
    with pytest.raises(ComponentError, match="retrieval service"):
        await trainer.run()
    newest = trainer.checkpoints.run.newest_checkpoint()
    assert newest is not None
    assert newest.name == "step_000000"
    rank: Any = trainer.policy.ranks[0]
    assert rank.updates == 0


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (True, [True] * 8),
        (False, [False] * 8),
        ("curriculum", [False, True] * 4),  # off for easy questions, on for half of the hard ones
    ],
)
async def test_held_out_questions_may_search_where_the_options_say_so(tmp_path, choice, expected):
    trainer = make_trainer(tmp_path, steps=1)
    trainer.options = trainer.options.model_copy(update={"eval_retrieval": choice})
    await trainer.run()
    rollouts: Any = trainer.rollouts
    asked = [a.retrieval for a in rollouts.assignments if a.id.startswith("eval")]
    assert asked == expected


async def test_every_stage_trains_on_the_sampling_that_the_options_were_checked_for(
    tmp_path: Path,
) -> None:
    trainer = make_trainer(tmp_path, steps=4, curriculum_options=STAGES)
    evaluation = SamplingOptions(temperature=0.3, top_p=0.5)
    trainer.rollout = trainer.rollout.model_copy(update={"eval_sampling": evaluation})
    await trainer.run()
    rollouts: Any = trainer.rollouts
    assert len(rollouts.samplings) == 4 * 4 + 2 * 4
    for id_, sampling in rollouts.samplings.items():
        assert sampling == (evaluation if id_.startswith("eval") else SamplingOptions())


async def test_a_stage_has_its_own_reward_whose_schedules_begin_with_it(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, steps=5, curriculum_options=STAGES)
    await trainer.run()
    rubrics: Any = trainer.rubrics
    assert rubrics["form"].steps == [1] * 4 + [2] * 4 + [3] * 4
    assert rubrics[None].steps == [1] * 4 + [2] * 4
    stages = [m["curriculum/stage"] for m in trainer.reporter.run.read_metrics()]
    assert stages == [0, 0, 0, 1, 1]


async def test_a_change_of_stage_leaves_a_checkpoint_and_is_said(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, steps=5, curriculum_options=STAGES)
    trainer.options = trainer.options.model_copy(update={"checkpoint_every": 0})
    shown = Console(record=True, quiet=False, file=io.StringIO(), width=120)
    trainer.reporter.console = shown
    await trainer.run()
    assert (tmp_path / "checkpoints" / "step_000003").is_dir()
    assert "curriculum, step 4: stage search -> answer: 3 steps" in shown.export_text()


@pytest.mark.parametrize("stop_at", [2, 3, 4, 5])
async def test_a_resume_around_a_change_of_stage_replays_the_stream(
    tmp_path: Path, stop_at: int
) -> None:
    whole = make_trainer(tmp_path / "whole", steps=6, curriculum_options=STAGES)
    await whole.run()
    first = make_trainer(tmp_path / "parts", steps=6, curriculum_options=STAGES)
    rollouts: Any = first.rollouts
    rollouts.before_step = lambda step: first.stop.set() if step == stop_at else None
    with pytest.raises(RunInterruptedError):
        await first.run()
    done = first.state.step
    assert done == stop_at - 1
    second = await resumed(tmp_path / "parts", steps=6, curriculum_options=STAGES)
    await second.run()
    assert training_stream(first)[: done * 4] + training_stream(second) == training_stream(whole)

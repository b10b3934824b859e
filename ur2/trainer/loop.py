"""The loop.

questions ─▶ curriculum ─▶ environment ⇄ rollout ─▶ rubric ─▶ credit ─▶ advantages ─▶ policy ─┐
                ▲                                                                            │
                └──────── what was solved, per bucket ◀── new weights in the engines ◀───────┘
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ur2.algorithms.options import AlgorithmOptions
from ur2.curriculum.curriculum import Curriculum
from ur2.errors import ComponentError, NotFiniteError
from ur2.policy.group import PolicyGroup
from ur2.rewards.rubric import Rubric
from ur2.rollout.exploration import Exploration
from ur2.rollout.options import RolloutOptions
from ur2.rollout.pool.rollout_pool import RolloutPool
from ur2.trainer.batching import make_batch, to_batch
from ur2.trainer.checkpoint import Checkpoints, LoopState
from ur2.trainer.evaluation import Evaluation, evaluate
from ur2.trainer.feed import Feed, StepGroups
from ur2.trainer.interrupt import unless_stopped
from ur2.trainer.options import TrainerOptions
from ur2.trainer.record.clock import Clock
from ur2.trainer.record.metrics import (
    acceptance_metrics,
    retrieval_metrics,
    step_metrics,
)
from ur2.trainer.record.reporting import Reporter
from ur2.trainer.record.timeline import Timeline
from ur2.types import Assignment, Batch, Question, ScoredGroup

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Trainer:
    """Runs steps until done, interrupted or failed; leaves a checkpoint in every case."""

    options: TrainerOptions
    rollout: RolloutOptions
    algorithm: AlgorithmOptions
    colocated: bool = False
    """Whether engines share memory with the policy; they are asleep when the loop begins."""
    max_failure_rate: float
    """Share of a step's searches that may fail before the run stops."""
    curriculum: Curriculum
    rollouts: RolloutPool
    rubrics: Mapping[str | None, Rubric]
    """By name, for the stages that have one of their own; None: the run's."""
    policy: PolicyGroup
    exploration: Exploration | None = None
    """Plays branches beside the policy's own samples."""
    questions: Sequence[Question]
    """All that the curriculum may draw."""
    held_out: Sequence[Question]
    service_metrics: Callable[[], Awaitable[dict[str, float]]]
    """The retrieval service's own metrics."""
    checkpoints: Checkpoints
    reporter: Reporter
    clock: Clock
    timeline: Timeline
    state: LoopState
    stop: asyncio.Event
    """Set when the user asks to stop."""

    def __post_init__(self) -> None:
        self._updating = False
        self._feed = Feed(
            self.options, self.curriculum, self._play, self._is_informative, self._drop
        )

    async def run(self) -> Evaluation | None:
        """Trains to the last step; returns the held-out measurement after it.

        Raises:
            RunInterruptedError: `stop` was set.
            ComponentError: a component failed past its retries.
        """
        self.reporter.run.forget_after(self.state.step)  # a killed run may have been further
        try:
            if self.colocated:
                await self.policy.call_all("release_memory")
                await self.rollouts.wake()
            if self.state.before is None:
                before = await unless_stopped(self._measure("before"), self.stop)
                self.state.before = before.to_json() if before else None
            await self._take_account()  # what comes before the first step is no step's
            await self.rollouts.take_loss()
            while self.state.step < self.options.steps:
                await self._step(self.state.step + 1)
            await self.save()
            return await unless_stopped(self._measure("after"), self.stop)
        except Exception:  # whatever it is, what is done is kept
            await self._rescue()
            raise
        finally:
            await self._feed.close()
            self.timeline.flush()

    async def resume(self, checkpoint: Path) -> None:
        """Goes back to where a checkpoint was written; the engines get its weights."""
        self.state = await self.checkpoints.load(checkpoint)
        self.curriculum.load_state_dict(self.state.curriculum)
        self._feed.restore(self.state.pending, self.questions)
        await self.publish(self.state.step)

    async def _step(self, step: int) -> None:
        phase, started = self.clock.phase, time.perf_counter()
        with phase("rollout"):
            groups = await unless_stopped(self._feed.next(step), self.stop)
            scored = groups.played
            self.curriculum.observe(scored)
            self._check_failures(scored)
        if self.colocated:
            with phase("sleep"):
                await self.rollouts.sleep(keep_weights=False)
        with phase("advantage"):
            batch, metrics = await make_batch(
                groups.accepted,
                self.algorithm,
                self.policy,
                sampled_as_policy=not self.rollout.sampling.temperatures,
                **({"behaviour": self.exploration.behaviour} if self.exploration else {}),
            )
        self._updating = True
        with phase("update"):
            report = metrics | (await self._update(step, batch, scored) if batch.samples else {})
        with phase("settle"):
            await self._feed.settle(self.stop)
        self.state.step, self.state.pending = step, self._feed.pending()
        self.state.curriculum = self.curriculum.state_dict()
        self._updating = False
        try:
            with phase("sync"):
                await self.publish(step)
            report |= await self._evaluate_and_save(step)
        finally:  # a run that fails here is continued after this step
            with phase("report"):
                report |= await self._account_of(step, groups)
            self.reporter.step(step, report | self._timing(started, batch))

    async def _evaluate_and_save(self, step: int) -> dict[str, float]:
        """Measures and saves what the steps so far have made, where that is due."""
        evaluation = None
        with self.clock.phase("evaluate"):
            if self._due(self.options.eval_every) and step < self.options.steps:
                evaluation = await self._evaluate(f"step {step}")
        with self.clock.phase("checkpoint"):
            if self._due(self.options.checkpoint_every) or self.curriculum.begins_stage(step + 1):
                await self.save()
        return evaluation.metrics() if evaluation else {}

    async def _account_of(self, step: int, groups: StepGroups) -> dict[str, float]:
        """Metrics of a step's groups, and of what everyone did meanwhile."""
        scored = groups.played
        report = step_metrics(scored, version=step - 1) | retrieval_metrics(scored)
        report |= acceptance_metrics(groups, await self.rollouts.take_loss())
        report |= await self._take_account()
        report |= self.curriculum.metrics() | await self.service_metrics()
        self.reporter.trajectories(step, scored)
        self.reporter.events(self.curriculum.take_events())
        self.timeline.flush()
        return report

    async def _update(
        self, step: int, batch: Batch, scored: Sequence[ScoredGroup]
    ) -> dict[str, float]:
        """The policy's update; what it refuses is kept for a look."""
        try:
            return await self.policy.update(batch, step)
        except NotFiniteError as error:
            self.reporter.refused(step, error.sample_ids, scored)
            raise

    async def publish(self, version: int) -> None:
        """Hands the policy's weights to the engines, as `version`."""
        if self.colocated:
            await self.policy.call_all("release_memory")
        await self.rollouts.take(await self.policy.publish(version))
        if self.colocated:  # last, since it takes the most memory
            await self.rollouts.wake()

    def _check_failures(self, scored: Sequence[ScoredGroup]) -> None:
        rate = retrieval_metrics(scored).get("retrieval/failure_rate", 0.0)
        if rate > self.max_failure_rate:
            raise ComponentError(
                f"{rate:.0%} of this step's searches failed (retrieval.max_failure_rate is "
                f"{self.max_failure_rate:.0%}): see that the retrieval service answers"
            )

    async def _play(self, assignment: Assignment) -> ScoredGroup:
        """One group, scored as soon as it is played."""
        group = await self.rollouts.play(
            assignment, self.rollout.samples_per_prompt, self.rollout.sampling
        )
        stage, start_s = self.curriculum.stage_at(assignment.step), time.time()
        rubric = self.rubrics[stage.reward]
        try:
            scored = await rubric.score(group, stage.step)
            if self.exploration is not None:
                scored = await self._explored(self.exploration, scored, rubric, stage.step)
        except asyncio.CancelledError:
            self.rollouts.write_off(group)
            raise
        self.timeline.add("rewards", assignment.id, start_s, time.time())
        return scored

    async def _explored(
        self, exploration: Exploration, scored: ScoredGroup, rubric: Rubric, step: int
    ) -> ScoredGroup:
        """The group with the branches that its explorer admits."""
        branches = exploration.branches(scored)
        if not branches:
            return scored
        assignment, sampling = scored.group.assignment, self.rollout.sampling
        more = await self.rollouts.play(assignment, len(branches), sampling, branches=branches)
        return await exploration.admit(scored, await rubric.score(more, step), self.policy)

    def _drop(self, scored: ScoredGroup) -> None:
        self.rollouts.write_off(scored.group)

    def _is_informative(self, group: ScoredGroup) -> bool:
        """Whether a group carries signal; where its samples are compared, equal ones carry none."""
        algorithm = self.algorithm
        equal_rewards_teach = algorithm.kl_in == "reward" and algorithm.kl_coef > 0
        filters = algorithm.compares == "group" and self.options.filter_zero_variance
        if not filters or equal_rewards_teach:
            return bool(group.without(algorithm.mask_statuses).scores)
        return any(sample.advantages.any() for sample in to_batch([group], algorithm).samples)

    async def _measure(self, label: str) -> Evaluation | None:
        """A held-out measurement outside any step, with its own entry in the run's account."""
        with self.clock.phase(f"evaluate_{label}"):
            evaluation = await self._evaluate(label)
        self.state.add_seconds(self.clock.take())
        return evaluation

    async def _evaluate(self, label: str) -> Evaluation | None:
        if not self.held_out:
            return None
        with self.reporter.progress(f"held-out, {label}", len(self.held_out)) as advance:
            groups = await evaluate(
                self.rollouts,
                self.rubrics[None],
                self.held_out,
                self.rollout.eval_sampling,
                step=self.state.step,
                retrieval=self._evaluates_with_retrieval,
                on_group=advance,
            )
        return Evaluation.of(groups)

    def _evaluates_with_retrieval(self, question: Question) -> bool:
        asked = self.options.eval_retrieval
        return self.curriculum.prefers_retrieval(question) if asked == "curriculum" else asked

    async def save(self) -> Path:
        """The checkpoint of the last complete step; written unless it is there already."""
        return await self.checkpoints.save(self.state)

    async def _rescue(self) -> None:
        """Keeps what is done when a run stops early; a half-made update is in no checkpoint."""
        if self._updating:
            return
        try:
            await self.save()
        except ComponentError as error:  # what stopped the run is the error to report
            logger.warning("no checkpoint could be written: %s", error)

    async def _take_account(self) -> dict[str, float]:
        """The engines' work since the last call, and who had nothing to do for how long."""
        account, writing_s = self.rollouts.take_account(), await self.rollouts.take_writing_s()
        return {
            "throughput/sampled_tokens_per_s": account.sampled_tokens_per_s,
            "idle/rollout": account.idle_fraction,
            "idle/engine": account.share_without(writing_s),
            **self.timeline.idleness.take(self.rollouts.searches_known_s),
        }

    def _due(self, every: int) -> bool:
        return every > 0 and self.state.step % every == 0

    def _timing(self, started: float, batch: Batch) -> dict[str, float]:
        """Phases, throughput; also adds the phases to the run's account."""
        seconds = self.clock.take()
        self.state.add_seconds(seconds)
        return {
            **{f"time/{name}_s": value for name, value in seconds.items()},
            "time/step_s": time.perf_counter() - started,
            "throughput/trained_tokens_per_s": batch.num_policy_tokens / seconds["update"],
        }

"""From typed options to running parts: the one place that sees all stages at once."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ur2.config.preflight import Inputs
from ur2.config.schema import RunOptions
from ur2.curriculum.curriculum import Curriculum
from ur2.errors import Ur2Error
from ur2.inference import make_retriever, make_rollouts, make_service
from ur2.policy.group import PolicyGroup
from ur2.prompts.protocol import Protocol
from ur2.rewards.rubric import Rubric
from ur2.rollout.pool import RolloutPool
from ur2.trainer.checkpoint import Checkpoints, LoopState
from ur2.trainer.clock import Clock
from ur2.trainer.cluster import Actor, Cluster, PolicyProcess
from ur2.trainer.interrupt import stop_on_signals, unless_stopped
from ur2.trainer.loop import Trainer
from ur2.trainer.reporting import Reporter
from ur2.trainer.run_directory import RunDirectory
from ur2.trainer.timeline import Timeline
from ur2.trainer.trackers import Tracker, open_trackers


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The running workers of a run."""

    rollouts: RolloutPool
    policy: PolicyGroup
    service: Actor | None
    """The retrieval service, where it runs in this cluster."""

    async def service_metrics(self) -> dict[str, float]:
        """What only the service knows."""
        if self.service is None:
            return {}
        figures = await self.service.call("metrics")
        return {f"retrieval/{k}": figures[k] for k in ("cache_hit_rate", "batch_size_mean")}


async def start_parts(options: RunOptions, cluster: Cluster, timeline: Timeline) -> Parts:
    """Starts retrieval, engines and policy ranks, all at once.

    Raises:
        InputError: an input is wrong in a way that only its worker can tell.
        ComponentError: a worker did not come up.
    """
    service = make_service(options, cluster)
    dtype = "float32" if options.policy.precision == "fp32" else "bfloat16"
    rollouts = make_rollouts(
        options, cluster, make_retriever(options, service), dtype=dtype, trace=timeline.add
    )
    ranks = _ranks(options, cluster)
    starting = [rollouts.start(), cluster.join(ranks)]
    if service is not None:
        starting.append(service.call("start"))
    await asyncio.gather(*starting)
    policy = PolicyGroup(ranks, options.policy, cluster.weights_dir, trace=timeline.add)
    return Parts(rollouts=rollouts, policy=policy, service=service)


def make_curriculum(options: RunOptions, inputs: Inputs) -> Curriculum:
    """The curriculum before its first draw.

    Raises:
        InputError: its options do not fit the questions.
    """
    limits = Protocol(options.prompt.protocol).limits
    return Curriculum(
        inputs.train,
        options.curriculum,
        options.seed,
        options.trainer.questions_per_step,
        stage_questions=inputs.stages,
        max_searches_per_group=limits.max_searches * options.rollout.samples_per_prompt,
    )


def make_trainer(
    options: RunOptions,
    inputs: Inputs,
    curriculum: Curriculum,
    parts: Parts,
    run: RunDirectory,
    reporter: Reporter,
    timeline: Timeline,
    stop: asyncio.Event,
) -> Trainer:
    """The loop over running parts, before its first step."""
    protocol = Protocol(options.prompt.protocol)
    rubrics: dict[str | None, Rubric] = {None: Rubric.from_options(options.reward, protocol)}
    for name, reward in options.rewards.items():
        rubrics[name] = Rubric.from_options(reward, protocol)
    return Trainer(
        options=options.trainer,
        rollout=options.rollout,
        algorithm=options.algorithm,
        max_failure_rate=options.retrieval.max_failure_rate,
        curriculum=curriculum,
        rollouts=parts.rollouts,
        rubrics=rubrics,
        policy=parts.policy,
        questions=inputs.drawn,
        held_out=inputs.held_out,
        service_metrics=parts.service_metrics,
        checkpoints=Checkpoints(run, parts.policy, options.trainer.keep_checkpoints),
        reporter=reporter,
        clock=Clock(timeline),
        timeline=timeline,
        state=LoopState(curriculum=curriculum.state_dict()),
        stop=stop,
    )


async def run_training(
    options: RunOptions, inputs: Inputs, run: RunDirectory, console: Console
) -> None:
    """Starts the parts, trains, and ends the parts whatever happens.

    Raises:
        Ur2Error: what stopped the run; its message says how to go on.
    """
    checkpoint = _checkpoint_to_resume(options, run)
    curriculum = make_curriculum(options, inputs)
    config = options.model_dump(mode="json")
    cluster = Cluster(options.cluster)
    stop = stop_on_signals()
    trackers: list[Tracker] = []
    try:
        run.open(config)
        trackers += open_trackers(options.trainer, run.path, config)
        reporter = Reporter(
            run,
            trackers,
            num_steps=options.trainer.steps,
            dump_trajectories=options.trainer.dump_trajectories,
            console=console,
        )
        timeline = Timeline(run.timeline_path)
        start = Clock(timeline)
        with start.phase("start"), console.status("starting workers"):
            parts = await unless_stopped(start_parts(options, cluster, timeline), stop)
        trainer = make_trainer(options, inputs, curriculum, parts, run, reporter, timeline, stop)
        if checkpoint is not None:
            await trainer.resume(checkpoint)
        trainer.state.add_seconds(start.take())
        after = await trainer.run()
        facts = _facts(options, trainer.state, await trainer.save())
        reporter.finish(facts, trainer.state.before, after.to_json() if after else None)
    except Ur2Error as error:
        raise type(error)(_how_to_go_on(error, run)) from error
    finally:
        await cluster.close()
        for tracker in trackers:
            tracker.close()


def _facts(options: RunOptions, state: LoopState, checkpoint: Path) -> dict[str, Any]:
    """What summary.json says beside the measurements."""
    return {
        "experiment": options.experiment,
        "seed": options.seed,
        "steps": state.step,
        "model_path": str(checkpoint / "model"),
        "engine": options.rollout.engine.name,
        "algorithm": options.algorithm.estimator,
        "curriculum": options.curriculum.policy,
        "wall_s": state.seconds,
    }


def _ranks(options: RunOptions, cluster: Cluster) -> list[Actor]:
    policy = options.policy
    return [
        cluster.actor(
            PolicyProcess,
            policy,
            options.algorithm,
            options.model.path,
            rank=rank,
            world_size=policy.num_ranks,
            total_steps=options.trainer.steps * policy.updates_per_rollout,
            temperature=options.rollout.sampling.temperature,
            seed=options.seed,
            revision=options.model.revision,
            num_gpus=options.cluster.num_gpus_per_policy_rank,
        )
        for rank in range(policy.num_ranks)
    ]


def _checkpoint_to_resume(options: RunOptions, run: RunDirectory) -> Path | None:
    if options.resume == "none":
        return None
    return run.newest_checkpoint() if options.resume == "auto" else Path(options.resume)


def _how_to_go_on(error: Ur2Error, run: RunDirectory) -> str:
    newest = run.newest_checkpoint()
    if newest is None:
        return f"{error} (no checkpoint yet)"
    return f"{error}. Checkpoint: {newest}; continue with run_dir={run.path} resume=auto"

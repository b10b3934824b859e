"""From typed options to running parts: the one place that sees all stages at once."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ur2.assembly.workers import make_retriever, make_rollouts, make_service, num_engines
from ur2.config.preflight import RunInputs
from ur2.config.problems import weight_transfer
from ur2.config.schema import RunOptions
from ur2.config.tables import make_table
from ur2.curriculum.curriculum import Curriculum
from ur2.errors import Ur2Error, refused
from ur2.policy.group import PolicyGroup
from ur2.prompts.dialect import Dialect
from ur2.rewards.rubric import Rubric
from ur2.rollout.exploration import Exploration, ExplorerKind
from ur2.rollout.pool.rollout_pool import RolloutPool
from ur2.rollout.worker import make_renderer
from ur2.trainer.checkpoint import Checkpoints, LoopState
from ur2.trainer.cluster.actors import Actor, PolicyProcess, RetrievalProcess, RolloutProcess
from ur2.trainer.cluster.ray_cluster import Cluster, Seats
from ur2.trainer.interrupt import stop_on_signals, unless_stopped
from ur2.trainer.loop import Trainer
from ur2.trainer.record.clock import Clock
from ur2.trainer.record.reporting import Reporter
from ur2.trainer.record.run_directory import RunDirectory
from ur2.trainer.record.timeline import Timeline
from ur2.trainer.record.trackers import Trackers

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The running workers of a run."""

    rollouts: RolloutPool
    policy: PolicyGroup
    service: Actor | None
    """The retrieval service, where it runs in this cluster."""

    async def service_metrics(self) -> dict[str, float]:
        """Figures that only the service knows."""
        if self.service is None:
            return {}
        figures = await self.service.call("metrics")
        shown = ("cache_hit_rate", "batch_size_mean", "num_cut", "num_empty")
        return {f"retrieval/{key}": figures[key] for key in shown}


async def start_parts(options: RunOptions, cluster: Cluster, timeline: Timeline) -> Parts:
    """Starts retrieval, engines and policy ranks, all at once.

    Colocated engines start first, since they take what memory they find, and sleep until the loop
    wakes them.

    Raises:
        InputError: the cluster is too small, or an input is wrong in a way that only its worker can
            tell.
        ComponentError: a worker did not come up.
    """
    seats = await cluster.reserve(
        num_ranks=options.policy.num_ranks, num_engines=num_engines(options)
    )
    ranks = _ranks(options, cluster, seats)
    service = make_service(options, cluster)
    rollouts = make_rollouts(
        options,
        cluster,
        make_retriever(options, service),
        seats.engines,
        dtype="float32" if options.policy.precision == "fp32" else "bfloat16",
        gpus=await _shared_gpus(ranks, seats),
        trace=timeline.add,
    )
    transfer = weight_transfer(options)
    if transfer == "files" and options.cluster.address != "local":
        await cluster.check_weights_dir(ranks[0])
    starting = []
    if service is not None:
        starting.append(_traced(service.call("start"), timeline, "start", "retrieval"))
    if options.cluster.placement == "colocated":
        await asyncio.gather(rollouts.start(), *starting)
        await rollouts.sleep(keep_weights=True)
        await _join(cluster, ranks, timeline)
    else:
        await asyncio.gather(rollouts.start(), _join(cluster, ranks, timeline), *starting)
    policy = PolicyGroup(
        ranks, options.policy, cluster.weights_dir, trace=timeline.add, transfer=transfer
    )
    return Parts(rollouts=rollouts, policy=policy, service=service)


def make_curriculum(options: RunOptions, inputs: RunInputs) -> Curriculum:
    """The curriculum before its first draw.

    Raises:
        InputError: its options do not fit the questions.
    """
    limits = Dialect(options.prompt.protocol).limits
    return Curriculum(
        inputs.train,
        options.curriculum,
        options.seed,
        options.trainer.questions_per_step,
        stage_questions=inputs.stages,
        max_searches_per_group=limits.max_searches * options.rollout.samples_per_prompt,
    )


def make_exploration(options: RunOptions) -> Exploration | None:
    """The explorer of the run; None where nothing is explored.

    Raises:
        InputError: there is no such explorer, or its options do not fit.
    """
    kind = ExplorerKind.load(options.exploration)
    if kind is None:
        return None
    model = options.model
    renderer = make_renderer(options.rollout, options.prompt, model.path, model.revision)
    return Exploration(kind, renderer, options.seed)


def make_trainer(
    options: RunOptions,
    inputs: RunInputs,
    curriculum: Curriculum,
    parts: Parts,
    run: RunDirectory,
    reporter: Reporter,
    timeline: Timeline,
    stop: asyncio.Event,
    fingerprint: dict[str, str],
) -> Trainer:
    """The loop over running parts, before its first step."""
    dialect = Dialect(options.prompt.protocol)
    rubrics: dict[str | None, Rubric] = {None: Rubric.from_options(options.reward, dialect)}
    for name, reward in options.rewards.items():
        rubrics[name] = Rubric.from_options(reward, dialect)
    return Trainer(
        options=options.trainer,
        rollout=options.rollout,
        algorithm=options.algorithm,
        colocated=options.cluster.placement == "colocated",
        max_failure_rate=options.retrieval.max_failure_rate,
        curriculum=curriculum,
        rollouts=parts.rollouts,
        rubrics=rubrics,
        policy=parts.policy,
        exploration=make_exploration(options),
        questions=inputs.drawn,
        held_out=inputs.held_out,
        service_metrics=parts.service_metrics,
        checkpoints=Checkpoints(run, parts.policy, options.trainer.keep_checkpoints),
        reporter=reporter,
        clock=Clock(timeline),
        timeline=timeline,
        state=LoopState(curriculum=curriculum.state_dict(), fingerprint=fingerprint),
        stop=stop,
    )


async def run_training(
    options: RunOptions,
    inputs: RunInputs,
    run: RunDirectory,
    console: Console,
    *,
    checkpoint: Path | None,
    fingerprint: dict[str, str],
) -> None:
    """Starts the parts, trains, and ends the parts whatever happens.

    Args:
        options: the run's.
        inputs: its questions.
        run: its folder.
        console: shows progress.
        checkpoint: the one to go on from.
        fingerprint: of what the run rests on; checkpoints keep it.

    Raises:
        Ur2Error: what stopped the run; its message says how to go on.
    """
    curriculum = make_curriculum(options, inputs)
    config = options.model_dump(mode="json")
    cluster = Cluster(options.cluster)
    stop = stop_on_signals()
    trackers = Trackers({})
    try:
        run.open(config)
        trackers = Trackers.open(options.trainer, run.path, config)
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
        console.print(await _workers_table(cluster))
        trainer = make_trainer(
            options, inputs, curriculum, parts, run, reporter, timeline, stop, fingerprint
        )
        if checkpoint is not None:
            await trainer.resume(checkpoint)
        trainer.state.add_seconds(start.take())
        after = await trainer.run()
        facts = _facts(options, trainer.state, await trainer.save())
        reporter.finish(facts, trainer.state.before, after.to_json() if after else None)
    except Ur2Error as error:
        raise type(error)(_how_to_go_on(error, run)) from error
    except OSError as error:  # a full disk, for one
        logger.info("the run failed", exc_info=True)
        failure = refused(error)
        raise type(failure)(_how_to_go_on(failure, run)) from error
    finally:
        await cluster.close()
        trackers.close()


async def _workers_table(cluster: Cluster) -> Table:
    """A table of workers and where they run; also in events.log."""
    rows, seen = [], Counter[type]()
    for actor, place in await cluster.whereabouts():
        name = f"{_NAMES[actor.kind]} {seen[actor.kind]}"
        seen[actor.kind] += 1
        cells = (place.node, ", ".join(place.gpus), str(place.pid), str(place.num_threads))
        rows.append((name, *cells))
        logger.info("%s: node %s, GPUs '%s', pid %s, %s threads", name, *cells)
    return make_table("workers", ("worker", "node", "GPUs", "pid", "CPU threads"), rows)


def _facts(options: RunOptions, state: LoopState, checkpoint: Path) -> dict[str, Any]:
    """Facts that stand in summary.json beside the measurements."""
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


def _ranks(options: RunOptions, cluster: Cluster, seats: Seats) -> list[Actor]:
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
            seat=seat,
        )
        for rank, seat in enumerate(seats.ranks)
    ]


async def _join(cluster: Cluster, ranks: Sequence[Actor], timeline: Timeline) -> None:
    lanes = (f"policy rank {rank}" for rank in range(len(ranks)))
    await _traced(cluster.join(ranks), timeline, "setup", *lanes)


async def _traced(work: Awaitable[None], timeline: Timeline, what: str, *lanes: str) -> None:
    """Waits for work that several do, and shows it on the timeline."""
    start_s = time.time()
    await work
    for lane in lanes:
        timeline.add(lane, what, start_s, time.time())


async def _shared_gpus(ranks: Sequence[Actor], seats: Seats) -> list[tuple[str, ...]]:
    """The GPUs that each engine shares with ranks."""
    if not any(seats.hosts):
        return []
    places = await asyncio.gather(*(rank.call("whereabouts") for rank in ranks))
    return [tuple(gpu for rank in host for gpu in places[rank].gpus) for host in seats.hosts]


def _how_to_go_on(error: Ur2Error, run: RunDirectory) -> str:
    newest = run.newest_checkpoint()
    if newest is None:
        return f"{error} (no checkpoint yet)"
    return f"{error}. Checkpoint: {newest}; continue with run_dir={run.path} resume=auto"


_NAMES = {
    PolicyProcess: "policy rank",
    RolloutProcess: "rollout worker",
    RetrievalProcess: "retrieval service",
}

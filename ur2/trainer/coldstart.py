"""Supervised training on demonstrations: the same policy workers, with advantage 1 on every token.

`reinforce` with A = 1 is the negative log-likelihood, so the cold start needs no code of its own in
the policy; only POLICY segments of a demonstration carry loss.
"""

import hashlib
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import numpy as np

from ur2.algorithms.options import AlgorithmOptions
from ur2.demonstrations import Demonstration, RecordedContext
from ur2.environments.game import Game
from ur2.options import Options
from ur2.policy.group import PolicyGroup
from ur2.prompts.render import PromptRenderer
from ur2.rollout.demonstrated import demonstrated
from ur2.rollout.recorded import rendered
from ur2.trainer.cluster.actors import PolicyProcess
from ur2.trainer.cluster.ray_cluster import Cluster
from ur2.trainer.options import ColdstartOptions, PhaseOptions
from ur2.types import Author, Batch, Sample, Segment, allowed_positions

LIKELIHOOD = AlgorithmOptions(loss="reinforce")


async def train_phase(
    cluster: Cluster,
    phase: PhaseOptions,
    samples: Sequence[Sample],
    *,
    base: str,
    out: str,
    seed: int,
) -> AsyncIterator[dict[str, float]]:
    """Trains the model in `base` on the samples and writes it to `out`.

    Yields:
        The metrics of each optimizer step.
    """
    num_steps = steps_of(phase, len(samples))
    seats = await cluster.reserve(num_ranks=phase.policy.num_ranks)
    ranks = [
        cluster.actor(
            PolicyProcess,
            phase.policy,
            LIKELIHOOD,
            base,
            rank=rank,
            world_size=phase.policy.num_ranks,
            temperature=1.0,
            total_steps=num_steps,
            seed=seed,
            seat=seat,
        )
        for rank, seat in enumerate(seats.ranks)
    ]
    await cluster.join(ranks)
    policy = PolicyGroup(ranks, phase.policy, cluster.weights_dir)
    rng = np.random.default_rng(seed)
    chosen = batches(samples, batch_size=phase.batch_size, num_steps=num_steps, rng=rng)
    for step, batch in enumerate(chosen, start=1):
        yield await policy.update(batch, step)
    await policy.call_all("export", out)
    await cluster.stop(ranks)
    cluster.release(seats)


def to_samples(
    demonstrations: Sequence[Demonstration | RecordedContext],
    renderer: PromptRenderer,
    game: Game,
) -> list[Sample]:
    """Demonstrations as training sequences, one per context; those without loss are left out."""
    samples = []
    for position, each in enumerate(demonstrations):
        if isinstance(each, RecordedContext):
            samples.append(to_sample(each.id, rendered(renderer, each)))
            continue
        for number, segments in enumerate(demonstrated(renderer, game, each)):
            samples.append(to_sample(f"{each.question.id}#{position}.{number}", segments))
    return [sample for sample in samples if sample.mask.any()]


def to_sample(name: str, segments: Sequence[Segment]) -> Sample:
    """One demonstration as a training sequence."""
    token_ids = np.asarray([t for s in segments for t in s.token_ids], dtype=np.int64)
    mask = np.asarray(
        [s.author is Author.POLICY for s in segments for _ in s.token_ids], dtype=np.bool_
    )
    return Sample(
        id=name,
        token_ids=token_ids,
        mask=mask,
        advantages=mask.astype(np.float32),
        sampler_logprobs=np.zeros(len(token_ids), dtype=np.float32),
        allowed=allowed_positions(segments),
    )


def steps_of(phase: PhaseOptions, num_samples: int) -> int:
    """Optimizer steps of a phase."""
    return max(1, round(phase.epochs * num_samples / phase.batch_size))


def batches(
    samples: Sequence[Sample], *, batch_size: int, num_steps: int, rng: np.random.Generator
) -> Iterator[Batch]:
    """Shuffled epochs cut into `num_steps` batches; every sample comes once per epoch."""
    order: list[int] = []
    for _ in range(num_steps):
        while len(order) < batch_size:
            order.extend(rng.permutation(len(samples)).tolist())
        chosen, order = order[:batch_size], order[batch_size:]
        yield Batch(samples=tuple(samples[i] for i in chosen))


def fingerprint(options: ColdstartOptions, *others: Options) -> str:
    """A hash of all that a cold start depends on: options, among them others', and files.

    A teacher counts by its demonstrations.
    """
    told = "".join(each.model_dump_json(exclude={"teacher"}) for each in (options, *others))
    digest = hashlib.sha256(told.encode())
    files = [*(phase.demonstrations for phase in options.phases), *options.scratch_texts]
    for file in files:
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()

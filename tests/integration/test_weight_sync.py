"""After every sync the engine samples with the policy's logprobs: real ray, vllm and DeepSpeed."""

import socket
from collections.abc import Sequence
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

pytest.importorskip("vllm")

from ur2.algorithms.options import AlgorithmOptions
from ur2.config.load import CONFIGS
from ur2.environments.options import EnvironmentOptions
from ur2.policy.group import PolicyGroup
from ur2.policy.options import LoraOptions, PolicyOptions
from ur2.prompts.options import PromptOptions
from ur2.retrieval.client.retriever import HttpTransport, RetrievalClient
from ur2.retrieval.reading.knowledge import RoutedKnowledge
from ur2.rollout.options import EngineOptions, RolloutOptions, SamplingOptions
from ur2.rollout.pool.rollout_pool import RolloutPool
from ur2.trainer.batching import to_batch
from ur2.trainer.cluster.actors import PolicyProcess, RemoteRollouts, RolloutProcess, Whereabouts
from ur2.trainer.cluster.ray_cluster import Cluster
from ur2.trainer.options import ClusterOptions
from ur2.transfer.choice import choose
from ur2.transfer.publication import Stream
from ur2.types import Assignment, Batch, Group, Level, Question, Score, ScoredGroup

pytestmark = pytest.mark.slow
TOLERANCE = 1e-4
ROLLOUT = RolloutOptions(
    engine=EngineOptions(enforce_eager=True, kv_cache_gib=0.25),
    max_prompt_tokens=128,
    max_tokens=40,
    sampling=SamplingOptions(temperature=0.8, seeded=True),
)


def assignment(step: int, number: int = 0) -> Assignment:
    question = Question(
        id="q", task="qa", text="What is the capital of France?", answers=("Paris",),
        level=Level.EASY,
    )  # fmt: skip
    return Assignment(
        id=f"{step}-{number}", question=question, retrieval=True, reason="test", step=step
    )


def scored(groups: Sequence[Group]) -> list[ScoredGroup]:
    """Any rewards that differ, so that every update moves the weights."""
    rng = np.random.default_rng(0)
    return [
        ScoredGroup(
            group=group,
            scores=tuple(
                Score(total=float(r), parts={}, correct=0.0)
                for r in rng.normal(size=len(group.trajectories))
            ),
        )
        for group in groups
    ]


def nowhere() -> str:
    """An address where nothing listens: a search fails, and ends its episode."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


async def largest_gap(policy: PolicyGroup, batch: Batch) -> float:
    """Between the sampler's logprobs and the policy's, over all sampled tokens."""
    ours = await policy.logprobs(batch.samples)
    return max(
        float(np.abs(logprobs - sample.sampler_logprobs)[sample.mask].max())
        for logprobs, sample in zip(ours, batch.samples, strict=True)
    )


class Parts:
    """Engines and two policy ranks with the same weights."""

    def __init__(self, cluster: Cluster, model: str, options: PolicyOptions) -> None:
        self.cluster = cluster
        self.model = model
        self.prompt = PromptOptions.load(
            yaml.safe_load((CONFIGS / "prompt" / "atlas.yaml").read_text()), where="atlas"
        )
        self.options = options
        self.workers: list[RemoteRollouts] = []

    async def start(self, num_workers: int) -> None:
        self.workers = [self._worker(number) for number in range(num_workers)]
        self.rollouts = RolloutPool(self.workers, ROLLOUT, respawn=self._respawn)
        self.ranks = [
            self.cluster.actor(
                PolicyProcess,
                self.options,
                AlgorithmOptions(),
                self.model,
                rank=rank,
                world_size=2,
                temperature=ROLLOUT.sampling.temperature,
                total_steps=10,
            )
            for rank in range(2)
        ]
        await self.cluster.join(self.ranks)
        await self.rollouts.start()
        self.policy = PolicyGroup(
            self.ranks,
            self.options,
            self.cluster.weights_dir,
            transfer=choose(
                self.options.weight_transfer, engine="vllm", on_gpu=False, colocated=False
            ),
        )

    def _worker(self, number: int) -> RemoteRollouts:
        retriever = RetrievalClient(HttpTransport(nowhere()), deadline_s=1.0, max_retries=0)
        actor = self.cluster.actor(
            RolloutProcess,
            ROLLOUT,
            self.prompt,
            EnvironmentOptions(),
            model_path=self.model,
            dtype="float32",
            knowledge=RoutedKnowledge(retriever=retriever, top_k=1),
            seed=0,
            number=number,
        )
        return RemoteRollouts(actor)

    async def _respawn(self, number: int) -> RemoteRollouts:
        await self.cluster.stop([self.workers[number].actor])
        self.workers[number] = self._worker(number)
        return self.workers[number]

    async def play(self, step: int, num_groups: int = 1) -> Batch:
        """Trajectories whose tokens must have the step's version and the policy's logprobs."""
        groups = await self.rollouts.collect(
            [assignment(step, number) for number in range(num_groups)], 8, ROLLOUT.sampling
        )
        assert {
            run.version
            for group in groups
            for t in group.trajectories
            for s in t.segments
            for run in s.weight_versions
        } == {step}
        batch = to_batch(scored(groups), AlgorithmOptions())
        assert await largest_gap(self.policy, batch) <= TOLERANCE
        return batch

    async def sync(self, version: int) -> None:
        await self.rollouts.take(await self.policy.publish(version))


@pytest.mark.parametrize(
    ("tiny_model", "trained"),
    [
        (True, {"zero_stage": 2}),
        (False, {"zero_stage": 3, "verify_weights": "always"}),
    ],
    ids=["tied", "untied"],
    indirect=["tiny_model"],
)
async def test_engine_and_policy_agree_after_every_sync(
    tiny_model: str, trained: dict[str, Any]
) -> None:
    cluster = Cluster(ClusterOptions(object_store_bytes=100_000_000))
    weights_dir = cluster.weights_dir
    try:
        options = PolicyOptions(num_ranks=2, learning_rate=0.01, **trained)
        parts = Parts(cluster, tiny_model, options)
        await parts.start(1)
        earlier = None
        for step in range(3):
            batch = await parts.play(step)
            if earlier is not None:  # it really moved
                assert await largest_gap(parts.policy, earlier) > 10 * TOLERANCE
            earlier = batch
            await parts.policy.update(batch, step + 1)
            await parts.sync(step + 1)
        assert not list(weights_dir.glob("v00000[12]"))
    finally:
        await cluster.close()
    assert not weights_dir.exists()


@pytest.mark.parametrize("tiny_model", [True], ids=["tied"], indirect=True)
async def test_a_channel_outlives_a_worker_that_is_killed(tiny_model: str) -> None:
    """One of two engines dies before it gets weights."""
    cluster = Cluster(ClusterOptions(object_store_bytes=100_000_000))
    try:
        options = PolicyOptions(
            num_ranks=2, learning_rate=0.01, zero_stage=3,
            weight_transfer="tcp", lora=LoraOptions(rank=4, alpha=8.0),
        )  # fmt: skip
        parts = Parts(cluster, tiny_model, options)
        await parts.start(2)
        # layers whose weights come in several parts
        parts.policy._stream = Stream(parts.policy, "tcp", "always", part_bytes=20_000)
        batch = await parts.play(0, num_groups=4)
        await parts.policy.update(batch, 1)
        await parts.sync(1)
        batch = await parts.play(1, num_groups=4)
        await parts.policy.update(batch, 2)
        first, second = parts.workers
        kill(await first.actor.call("whereabouts"))
        await parts.sync(2)
        assert parts.workers[0] is not first
        assert parts.workers[1] is second
        batch = await parts.play(2, num_groups=4)  # the survivor, and one that started late
        await parts.policy.update(batch, 3)
        await parts.sync(3)
        await parts.play(3, num_groups=4)
    finally:
        await cluster.close()


def kill(place: Whereabouts) -> None:
    """Ends a worker and its engine."""
    worker = psutil.Process(place.pid)
    for process in (*worker.children(recursive=True), worker):
        process.kill()

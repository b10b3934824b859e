"""After every sync the engine samples with the policy's logprobs: real ray, vllm and DeepSpeed."""

import socket
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("vllm")

from ur2.algorithms.options import AlgorithmOptions
from ur2.config.load import CONFIGS
from ur2.policy.group import PolicyGroup
from ur2.policy.options import LoraOptions, PolicyOptions
from ur2.prompts.options import PromptOptions
from ur2.retrieval.client import HttpTransport, RetrievalClient
from ur2.retrieval.knowledge import Knowledge
from ur2.rollout.options import EngineOptions, RolloutOptions, SamplingOptions
from ur2.rollout.pool import RolloutPool
from ur2.trainer.actors import PolicyProcess, RemoteRollouts, RolloutProcess
from ur2.trainer.batching import to_batch
from ur2.trainer.cluster import Cluster
from ur2.trainer.options import ClusterOptions
from ur2.types import Assignment, Batch, Group, Level, Question, Score, ScoredGroup

pytestmark = pytest.mark.slow
TOLERANCE = 1e-4
ROLLOUT = RolloutOptions(
    engine=EngineOptions(enforce_eager=True, kv_cache_gib=0.25),
    max_prompt_tokens=128,
    max_tokens=40,
    max_tokens_per_turn=40,
    sampling=SamplingOptions(temperature=0.8, seeded=True),
)


def assignment(step: int) -> Assignment:
    question = Question(
        id="q", task="qa", text="What is the capital of France?", answers=("Paris",),
        level=Level.EASY,
    )  # fmt: skip
    return Assignment(id=f"{step}-0", question=question, retrieval=True, reason="test", step=step)


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


@pytest.mark.parametrize(
    ("tiny_model", "trained"),
    [
        (True, {"zero_stage": 2}),
        (False, {"zero_stage": 3, "verify_weights": "always"}),
        (True, {"zero_stage": 3, "lora": LoraOptions(rank=4, alpha=8.0)}),
    ],
    ids=["tied", "untied", "tied-lora"],
    indirect=["tiny_model"],
)
async def test_engine_and_policy_agree_after_every_sync(
    tiny_model: str, trained: dict[str, Any]
) -> None:
    prompt = PromptOptions.load(
        yaml.safe_load((CONFIGS / "prompt" / "atlas.yaml").read_text()), where="atlas"
    )
    options = PolicyOptions(num_ranks=2, learning_rate=0.01, **trained)
    cluster = Cluster(ClusterOptions(object_store_bytes=100_000_000))
    weights_dir = cluster.weights_dir
    try:
        worker = cluster.actor(
            RolloutProcess,
            ROLLOUT,
            prompt,
            model_path=tiny_model,
            dtype="float32",
            knowledge=Knowledge(
                retriever=RetrievalClient(HttpTransport(nowhere()), deadline_s=1.0, max_retries=0),
                top_k=1,
            ),
            seed=0,
            number=0,
            notes_dir=cluster.weights_dir,
        )
        rollouts = RolloutPool([RemoteRollouts(worker)], ROLLOUT)
        ranks = [
            cluster.actor(
                PolicyProcess,
                options,
                AlgorithmOptions(),
                tiny_model,
                rank=rank,
                world_size=2,
                temperature=ROLLOUT.sampling.temperature,
                total_steps=10,
            )
            for rank in range(2)
        ]
        await cluster.join(ranks)
        await rollouts.start()
        policy = PolicyGroup(ranks, options, cluster.weights_dir)
        earlier = None
        for step in range(3):
            groups = await rollouts.collect([assignment(step)], 8, ROLLOUT.sampling)
            assert {
                run.version
                for t in groups[0].trajectories
                for s in t.segments
                for run in s.weight_versions
            } == {step}
            batch = to_batch(scored(groups), AlgorithmOptions())
            assert await largest_gap(policy, batch) <= TOLERANCE
            if earlier is not None:
                assert await largest_gap(policy, earlier) > 10 * TOLERANCE  # it really moved
            earlier = batch
            await policy.update(batch)
            await rollouts.update_weights(await policy.publish(step + 1))
    finally:
        await cluster.close()
    assert not weights_dir.exists()

"""The parts that differ on a GPU: NCCL, bf16 masters, and the engine's weights."""

import asyncio
import socket

import numpy as np
import pytest
import torch

from ur2.algorithms.options import AlgorithmOptions
from ur2.policy.options import PolicyOptions
from ur2.types import Batch, Sample

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def samples(number: int = 8, length: int = 24) -> tuple[Sample, ...]:
    rng = np.random.default_rng(0)
    mask = np.arange(length) >= 8
    return tuple(
        Sample(
            id=str(i),
            token_ids=rng.integers(10, 300, length),
            mask=mask,
            advantages=np.where(mask, rng.normal(), 0).astype(np.float32),
            sampler_logprobs=np.zeros(length, dtype=np.float32),
        )
        for i in range(number)
    )


def test_engine_samples_with_the_policys_logprobs_after_a_sync(tiny_model: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("vllm")
    from ur2.policy.packing import plan
    from ur2.policy.worker import PolicyWorker
    from ur2.rollout.engines.base import GenerationRequest
    from ur2.rollout.engines.vllm import VllmEngine
    from ur2.rollout.options import EngineOptions

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = PolicyOptions(zero_stage=2, learning_rate=0.01)
    worker = PolicyWorker(
        options, AlgorithmOptions(), tiny_model, rank=0, world_size=1, temperature=1.0,
        total_steps=1,
    )  # fmt: skip
    worker.setup("127.0.0.1", port)
    batch = Batch(samples=samples())
    worker.update(
        plan(batch, num_updates=1, num_ranks=1, max_tokens_per_microbatch=512).for_rank(0)
    )
    worker.publish(str(tmp_path / "v1"), 1)

    async def sample() -> Sample:
        engine = VllmEngine(
            EngineOptions(enforce_eager=True, gpu_memory_utilization=0.3),
            model_path=tiny_model, dtype="float32", max_model_len=64, seed=0,
        )  # fmt: skip
        await engine.start()
        try:
            await engine.load_weights(str(tmp_path / "v1"), 1)
            prompt = tuple(range(20, 36))
            got = await engine.generate(GenerationRequest(token_ids=prompt, max_tokens=32))
        finally:
            await engine.close()
        mask = np.arange(len(prompt) + len(got.token_ids)) >= len(prompt)
        logprobs = np.zeros(len(mask), dtype=np.float32)
        logprobs[mask] = got.logprobs
        return Sample(
            id="s",
            token_ids=np.asarray(prompt + got.token_ids),
            mask=mask,
            advantages=np.zeros(len(mask), dtype=np.float32),
            sampler_logprobs=logprobs,
        )

    sampled = asyncio.run(sample())
    (ours,) = worker.logprobs([sampled])
    worker.close()
    np.testing.assert_allclose(ours, sampled.sampler_logprobs, atol=1e-3)

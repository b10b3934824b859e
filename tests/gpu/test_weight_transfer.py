"""Each way from a policy on a GPU to an engine on one: the engine samples with its logprobs."""

import asyncio
import dataclasses
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

from ur2.algorithms.options import AlgorithmOptions
from ur2.policy.batch.packing import plan
from ur2.policy.options import PolicyOptions
from ur2.transfer.records import Rendezvous, WeightFolder
from ur2.types import Batch, Sample

pytest.importorskip("vllm")

from ur2.policy.worker import PolicyWorker
from ur2.rollout.engines.base import GenerationRequest
from ur2.rollout.engines.vllm import VllmEngine
from ur2.rollout.options import EngineOptions

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
HOST = "127.0.0.1"
NUM_SYNCS = 3  # found by name, then by the way of the first time


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def batch(seed: int, number: int = 8, length: int = 24) -> Batch:
    rng = np.random.default_rng(seed)
    mask = np.arange(length) >= 8
    return Batch(
        samples=tuple(
            Sample(
                id=str(i),
                token_ids=rng.integers(10, 300, length),
                mask=mask,
                advantages=np.where(mask, rng.normal(), 0).astype(np.float32),
                sampler_logprobs=np.zeros(length, dtype=np.float32),
            )
            for i in range(number)
        )
    )


def train(policy: PolicyWorker, seed: int) -> None:
    share = plan(batch(seed), num_updates=1, num_ranks=1, max_tokens_per_microbatch=512)
    policy.update(share.for_rank(0), 1)


async def largest_gap(policy: PolicyWorker, engine: VllmEngine) -> float:
    """Between the engine's logprobs of what it samples and the policy's."""
    prompt = tuple(range(20, 36))
    got = await engine.generate(GenerationRequest(token_ids=prompt, max_tokens=32))
    mask = np.arange(len(prompt) + len(got.token_ids)) >= len(prompt)
    sample = Sample(
        id="s",
        token_ids=np.asarray(prompt + got.token_ids),
        mask=mask,
        advantages=np.zeros(len(mask), dtype=np.float32),
        sampler_logprobs=np.zeros(len(mask), dtype=np.float32),
    )
    (ours,) = policy.logprobs([sample])
    return float(np.abs(ours[mask] - np.asarray(got.logprobs)).max())


@pytest.mark.parametrize("way", ["files", "nccl", "ipc"])
async def test_engine_samples_with_the_policys_logprobs_after_every_sync(
    way: str, tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "nccl":
        if torch.cuda.device_count() < 2:
            pytest.skip("NCCL joins two GPUs")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")  # the engine's; this process has looked
    options = PolicyOptions(zero_stage=2, learning_rate=0.01, verify_weights="always")
    policy = PolicyWorker(
        options, AlgorithmOptions(), tiny_model, rank=0, world_size=1, temperature=1.0,
        total_steps=NUM_SYNCS,
    )  # fmt: skip
    policy.setup(HOST, free_port())
    engine = VllmEngine(
        EngineOptions(enforce_eager=True, gpu_memory_utilization=0.3),
        model_path=tiny_model, dtype="float32", max_model_len=64, seed=0,
    )  # fmt: skip
    try:
        await engine.start()
        if way != "files":
            rendezvous = Rendezvous(
                channel=way, address=HOST, port=free_port(), num_ranks=2, first_rank=0,
                timeout_s=60.0, secret="secret",
            )  # fmt: skip
            await asyncio.gather(
                asyncio.to_thread(policy.give, rendezvous, 0),
                engine.take(dataclasses.replace(rendezvous, first_rank=1), 0),
            )
        for version in range(1, NUM_SYNCS + 1):
            train(policy, seed=version)
            assert await largest_gap(policy, engine) > 1e-2
            if way == "files":
                folder = str(tmp_path / f"v{version}")
                policy.give(WeightFolder(folder), version)
                await engine.take(WeightFolder(folder), version)
            else:
                manifest = dataclasses.replace(policy.manifest(), verified=True)
                await asyncio.gather(
                    asyncio.to_thread(policy.give, manifest, version),
                    engine.take(manifest, version),
                )
            assert await largest_gap(policy, engine) <= 1e-3
    finally:
        await engine.close()
        policy.close()

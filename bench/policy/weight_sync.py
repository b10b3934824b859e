"""Weights from the policy into a running engine: one hand-over, or one call per parameter.

    python scripts/bench/weight_sync.py

A random Qwen2 of 290 tensors (24 layers of small width, tied head, fp32) as a real DeepSpeed policy
and a real vllm engine, on CPU, in plain processes. All ways begin with the policy's weights on its
device and end when the engine has resumed with them, its prefix cache empty:

- packed: what a run does on one machine. `PolicyWorker.give` and `VllmEngine.take`.
- channel: what it does with policy.weight_transfer=tcp. `PolicyWorker.send` beside
  `VllmEngine.take`, over the channel that they joined at the start.
- per parameter: for each one `collective_rpc` with its name, shape and dtype, and one gloo
  broadcast that the engine's worker joins, as OpenRLHF and others do; between the same pause,
  begin, end and resume. vllm finds the way of each tensor by its name.

Before each sync the weights are moved, and after it the log-probabilities of tokens that the engine
samples must be the policy's. Times are medians of interleaved repeats.
"""

import asyncio
import dataclasses
import logging
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", VLLM_LOGGING_LEVEL="ERROR", RAY_USAGE_STATS_ENABLED="0")

import numpy as np
import torch
from torch.distributed import ProcessGroup
from vllm.config import set_current_vllm_config
from vllm.distributed.utils import stateless_init_torch_distributed_process_group
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)

from bench.figures import tell
from ur2.algorithms.options import AlgorithmOptions
from ur2.policy.model.scratch import ScratchOptions, train_tokenizer
from ur2.policy.options import PolicyOptions
from ur2.policy.worker import PolicyWorker
from ur2.rollout.engines.base import GenerationRequest
from ur2.rollout.engines.vllm import VllmEngine
from ur2.rollout.engines.vllm_reload import _repack_heads
from ur2.rollout.engines.vllm_weights import WeightReloader
from ur2.rollout.options import EngineOptions
from ur2.transfer.proof import make_secret
from ur2.transfer.records import Rendezvous, WeightFolder
from ur2.types import Sample

REPEATS = 7
NUM_LAYERS = 24
NUM_TENSORS = 12 * NUM_LAYERS + 2
TOLERANCE = 1e-4
PROMPTS = [tuple(range(40, 60 + 7 * i)) for i in range(4)]
HOST = "127.0.0.1"


class PerParameterReloader(WeightReloader):
    """The engine's side of the baseline."""

    group: ProcessGroup

    def join(self, port: int) -> None:
        """Meets the policy in a group of two."""
        self.group = stateless_init_torch_distributed_process_group(HOST, port, 1, 2, "gloo")

    def begin(self) -> None:
        """Before the first parameter."""
        with set_current_vllm_config(self.vllm_config):
            initialize_layerwise_reload(self.model_runner.get_model())

    @torch.no_grad()
    def receive(self, name: str, shape: list[int], dtype: str) -> None:
        """Takes one parameter."""
        weight = torch.empty(shape, dtype=getattr(torch, dtype))
        self.group.broadcast(weight, 0).wait()
        with set_current_vllm_config(self.vllm_config):
            self.model_runner.get_model().load_weights([(name, weight)])

    @torch.no_grad()
    def end(self) -> None:
        """After the last parameter."""
        model = self.model_runner.get_model()
        with set_current_vllm_config(self.vllm_config):
            finalize_layerwise_reload(model, self.vllm_config.model_config)
            _repack_heads(model)


class BenchEngine(VllmEngine):
    """The engine of a run, whose worker can also take the baseline's calls."""

    def _arguments(self) -> dict[str, Any]:
        extension = "bench.policy.weight_sync.PerParameterReloader"
        return {**super()._arguments(), "worker_extension_cls": extension}

    async def rpc(self, method: str, *args: Any) -> None:
        """One collective call."""
        await self._llm.collective_rpc(method, args=args)

    async def paused(self, version: int, load: Callable[[], Awaitable[None]]) -> None:
        """What `VllmEngine.take` does around its loading."""
        await self._llm.pause_generation(mode="keep", clear_cache=False)
        await load()
        await self._llm.reset_prefix_cache(reset_running_requests=True)
        await self._llm.update_weight_version(str(version))
        await self._llm.resume_generation()


class Bench:
    """A policy and an engine with the same weights."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = str(folder / "model")
        shared = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self.weights_dir = Path(tempfile.mkdtemp(prefix="ur2-bench-", dir=shared))
        self.version = 0
        self.seconds: dict[str, list[float]] = {}

    async def start(self) -> None:
        """Makes the model; starts engine and policy."""
        make_model(Path(self.model))
        self.engine = BenchEngine(
            EngineOptions(enforce_eager=True, kv_cache_gib=0.25),
            model_path=self.model,
            dtype="float32",
            max_model_len=256,
            seed=0,
        )
        await self.engine.start()
        self.policy = PolicyWorker(
            PolicyOptions(zero_stage=2), AlgorithmOptions(), self.model, 0, 1, 1.0, 10
        )
        self.policy.setup(HOST, free_port())
        self.tensors = sum(1 for _ in self.policy.engine.model.lm.parameters())
        rendezvous = Rendezvous(
            channel="tcp",
            address=HOST,
            port=free_port(),
            num_ranks=2,
            first_rank=0,
            timeout_s=60.0,
            secret=make_secret(),
        )
        joined = asyncio.create_task(
            self.engine.take(dataclasses.replace(rendezvous, first_rank=1), 0)
        )
        await asyncio.to_thread(self.policy.give, rendezvous, 0)
        await joined
        port = free_port()
        joined = asyncio.create_task(self.engine.rpc("join", port))
        self.group = await asyncio.to_thread(
            stateless_init_torch_distributed_process_group, HOST, port, 0, 2, "gloo"
        )
        await joined

    async def packed(self) -> None:
        """As a run does it."""
        folder = str(self.weights_dir / f"v{self.version}")
        started = time.perf_counter()
        self.policy.give(WeightFolder(folder), self.version)
        published = time.perf_counter()
        await self.engine.take(WeightFolder(folder), self.version)
        self.note("packed: gather, write", published - started)
        self.note("packed: pause, load, resume", time.perf_counter() - published)
        self.note("packed", time.perf_counter() - started)

    async def channel(self) -> None:
        """As a run does it between nodes that share no folder."""
        manifest = self.policy.manifest()
        started = time.perf_counter()
        taken = asyncio.create_task(self.engine.take(manifest, self.version))
        await asyncio.to_thread(self.policy.give, manifest, self.version)
        sent = time.perf_counter()
        await taken
        self.note("channel: gather, send", sent - started)
        self.note("channel", time.perf_counter() - started)

    async def per_parameter(self) -> None:
        """One call and one broadcast per parameter."""
        started = time.perf_counter()
        await self.engine.paused(self.version, self.send_each)
        self.note("per parameter", time.perf_counter() - started)

    async def send_each(self) -> None:
        """All parameters, one by one."""
        await self.engine.rpc("begin")
        for name, parameter in self.policy.engine.model.lm.named_parameters():
            dtype = str(parameter.dtype).removeprefix("torch.")
            taken = asyncio.create_task(
                self.engine.rpc("receive", name, list(parameter.shape), dtype)
            )
            await asyncio.sleep(0)  # the call leaves before the broadcast begins
            sent = self.group.broadcast(parameter.detach(), 0)
            await taken
            sent.wait()
        await self.engine.rpc("end")

    async def sync(self, way: Callable[[], Awaitable[None]]) -> None:
        """Moves the weights, syncs them, and compares what engine and policy say."""
        self.version += 1
        with torch.no_grad():
            for parameter in self.policy.engine.model.lm.parameters():
                parameter.mul_(1 + 0.05 * torch.randn(()).item())
        gap = await self.gap()
        assert gap > 10 * TOLERANCE, "the weights did not move"
        await way()
        gap = await self.gap()
        assert gap <= TOLERANCE, f"{way.__name__}: engine and policy differ by {gap}"
        self.note("gap", gap)

    async def gap(self) -> float:
        """Between the log-probabilities of the engine and of the policy, at most."""
        drawn = await asyncio.gather(
            *(self.engine.generate(GenerationRequest(token_ids=p, max_tokens=16)) for p in PROMPTS)
        )
        samples = []
        for number, (prompt, turn) in enumerate(zip(PROMPTS, drawn, strict=True)):
            length = len(prompt) + len(turn.token_ids)
            samples.append(
                Sample(
                    id=str(number),
                    token_ids=np.array([*prompt, *turn.token_ids]),
                    mask=np.arange(length) >= len(prompt),
                    advantages=np.zeros(length, dtype=np.float32),
                    sampler_logprobs=np.zeros(length, dtype=np.float32),
                )
            )
        ours = self.policy.logprobs(samples)
        return max(
            float(np.abs(o[s.mask] - d.logprobs).max())
            for o, s, d in zip(ours, samples, drawn, strict=True)
        )

    def note(self, name: str, value: float) -> None:
        """Keeps one measurement."""
        self.seconds.setdefault(name, []).append(value)


def make_model(folder: Path) -> None:
    """A random Qwen2 in the shape of the 0.5B one, much narrower, with a tokenizer."""
    from transformers import Qwen2Config, Qwen2ForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    text = ["What is the capital of France? It is Paris."] * 9
    tokenizer = train_tokenizer(ScratchOptions(vocab_size=300), text)
    tokenizer.save_pretrained(folder)
    config = Qwen2Config(
        vocab_size=1024,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        initializer_range=0.1,
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).to(torch.float32).save_pretrained(folder)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


async def measure(bench: Bench) -> None:
    """All repeats, the ways in turn, after two to warm up."""
    await bench.start()
    if bench.tensors != NUM_TENSORS:
        sys.exit(f"the model has {bench.tensors} tensors, not {NUM_TENSORS}")
    for repeat in range(REPEATS + 2):
        await bench.sync(bench.packed)
        await bench.sync(bench.channel)
        await bench.sync(bench.per_parameter)
        if repeat < 2:
            bench.seconds.clear()


async def run(bench: Bench) -> None:
    """Measures, and ends everything that was started."""
    try:
        await measure(bench)
    finally:
        shutil.rmtree(bench.weights_dir, ignore_errors=True)
        await bench.engine.close()
        bench.policy.close()


def main() -> None:
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        asyncio.run(run(bench))
    for name, values in bench.seconds.items():
        if name != "gap":
            low, mid, high = (1e3 * x for x in (min(values), median(values), max(values)))
            print(f"{name:30} {mid:8.1f} ms   ({low:.1f} to {high:.1f})")
    print(f"largest difference of log-probabilities after a sync: {max(bench.seconds['gap']):.1e}")
    packed, channel, single = (
        median(bench.seconds[name]) for name in ("packed", "channel", "per parameter")
    )
    figures = {
        "sync_ratio": round(single / packed, 2),
        "sync_ratio_channel": round(single / channel, 2),
        "packed_ms": round(1e3 * packed, 1),
        "channel_ms": round(1e3 * channel, 1),
        "per_parameter_ms": round(1e3 * single, 1),
        "num_tensors": bench.tensors,
        "largest_logprob_gap": max(bench.seconds["gap"]),
    }
    tell("weight_sync", figures)

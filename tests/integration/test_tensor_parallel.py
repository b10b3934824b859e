"""One copy of a model on two vllm processes, beside transformers."""

import asyncio
import os
from pathlib import Path

import pytest

pytest.importorskip("vllm")

from tests.conftest import make_tiny_model
from ur2.rollout.engines.base import Generation, GenerationRequest
from ur2.rollout.engines.hf import HfEngine
from ur2.rollout.engines.vllm import VllmEngine
from ur2.rollout.options import EngineOptions
from ur2.trainer.cluster.leftovers import Notes, shared_memory_in_use
from ur2.transfer.records import WeightFolder

pytestmark = pytest.mark.slow

PROMPTS = [tuple(range(20, 28 + 5 * i)) for i in range(6)]
Engine = VllmEngine | HfEngine


def make(engine: type[Engine], model: str, **options: int) -> Engine:
    return engine(
        EngineOptions(enforce_eager=True, kv_cache_gib=0.25, **options),
        model_path=model,
        dtype="float32",
        max_model_len=320,
        seed=1,
    )


async def greedy(engine: Engine) -> list[Generation]:
    return await asyncio.gather(
        *(
            engine.generate(GenerationRequest(token_ids=prompt, max_tokens=24, temperature=0.0))
            for prompt in PROMPTS
        )
    )


async def before_and_after(engine: Engine, other_weights: str) -> list[Generation]:
    """What it writes with the weights that it starts with, and with others."""
    first = await greedy(engine)
    await engine.take(WeightFolder(other_weights), 1)
    return first + await greedy(engine)


async def test_two_processes_write_what_one_does_and_leave_no_shared_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in os.environ.items():  # the engine sets some; they are put back
        monkeypatch.setenv(name, value)
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    model = make_tiny_model(tmp_path / "one", tied=False)
    other = make_tiny_model(tmp_path / "other", tied=False, seed=1)
    alone, split = make(HfEngine, model), make(VllmEngine, model, tensor_parallel_size=2)
    await alone.start()
    expected = await before_and_after(alone, other)
    await alone.close()

    await split.start()
    try:
        shared = shared_memory_in_use()
        notes = Notes(shared)
        written = await before_and_after(split, other)
    finally:
        await split.close()
    notes.close()

    assert [g.token_ids for g in written] == [g.token_ids for g in expected]
    for ours, theirs in zip(written, expected, strict=True):
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)
    assert shared
    assert not [path for path in shared if path.exists()]

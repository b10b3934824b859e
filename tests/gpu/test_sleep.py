"""vllm's sleep on a real GPU: the memory really goes, and the right weights come."""

import asyncio

import pytest
import torch
from safetensors.torch import save_file

from ur2.rollout.engines.base import Generation, GenerationRequest
from ur2.rollout.options import EngineOptions
from ur2.transfer.records import WeightFolder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SHARE = 0.3
PROMPT = tuple(range(20, 40))


def free_bytes() -> int:
    return torch.cuda.mem_get_info()[0]


def largest_gap(model, drawn: Generation) -> float:  # type: ignore[no-untyped-def]
    """Between the engine's logprobs and those of transformers."""
    with torch.no_grad():
        logits = model(torch.tensor([[*PROMPT, *drawn.token_ids]])).logits[0].float()
    logprobs = torch.log_softmax(logits, -1)[len(PROMPT) - 1 : -1]
    expected = logprobs[range(len(drawn.token_ids)), drawn.token_ids]
    return (torch.tensor(drawn.logprobs) - expected).abs().max().item()


async def test_memory_goes_with_sleep_and_logprobs_are_right_after_every_waking(  # type: ignore[no-untyped-def]
    tiny_model: str, tmp_path
) -> None:
    pytest.importorskip("vllm")
    from transformers import AutoModelForCausalLM

    from ur2.rollout.engines.vllm import VllmEngine

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    total = torch.cuda.mem_get_info()[1]
    engine = VllmEngine(
        EngineOptions(gpu_memory_utilization=SHARE),
        model_path=tiny_model, dtype="float32", max_model_len=256, seed=0, sleeps=True,
    )  # fmt: skip
    request = GenerationRequest(token_ids=PROMPT, max_tokens=32)
    await engine.start()
    try:
        assert largest_gap(model, await engine.generate(request)) < 1e-3
        awake = free_bytes()
        await engine.sleep(keep_weights=True)
        assert free_bytes() - awake > 0.8 * SHARE * total
        await engine.wake()
        assert free_bytes() - awake < 0.05 * total
        assert largest_gap(model, await engine.generate(request)) < 1e-3

        for version, factor in ((1, 1.1), (2, 0.9)):
            long = GenerationRequest(token_ids=PROMPT, max_tokens=200)
            crossing = asyncio.create_task(engine.generate(long))
            await asyncio.sleep(0.05)
            await engine.sleep(keep_weights=False)
            asleep = free_bytes()
            assert asleep - awake > 0.8 * SHARE * total
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(factor)
            folder = tmp_path / f"v{version}"
            folder.mkdir()
            weights = {name: p.detach().clone() for name, p in model.named_parameters()}
            save_file(weights, folder / "0.safetensors")
            await engine.take(WeightFolder(str(folder)), version)
            assert asleep - free_bytes() < 0.1 * SHARE * total  # weights are back, the cache not
            await engine.wake()
            drawn = await engine.generate(request)
            assert drawn.weight_versions == ((version, len(drawn.token_ids)),)
            assert largest_gap(model, drawn) < 1e-3
            assert (await crossing).weight_versions[-1].version in (version - 1, version)
    finally:
        await engine.close()

"""Turns restricted to choices: what an engine says of them, and what the trained policy says."""

import asyncio
import os

import numpy as np
import pytest
import pytest_asyncio
import torch

pytest.importorskip("vllm")

from transformers import AutoModelForCausalLM

from ur2.policy.batch.microbatch import collate
from ur2.policy.model.models import PolicyModel
from ur2.rollout.choices import Choices, choose
from ur2.rollout.engines.base import Engine, Generation, GenerationRequest
from ur2.rollout.engines.hf import HfEngine
from ur2.rollout.engines.vllm import VllmEngine
from ur2.rollout.options import EngineOptions
from ur2.types import Author, Sample, Segment, allowed_positions

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

PROMPTS = [tuple(range(20, 28 + 5 * i)) for i in range(12)]
CHOICES = Choices(
    texts=("fetch", "no fetch", "fence"),
    token_ids=((40, 50, 60), (41, 50, 51, 60), (40, 52, 61)),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=[HfEngine, VllmEngine])
async def engine(request, tiny_model):
    environment = dict(os.environ)
    running = request.param(
        EngineOptions(enforce_eager=True, kv_cache_gib=0.25),
        model_path=tiny_model,
        dtype="float32",
        max_model_len=128,
        seed=1,
    )
    try:
        await running.start()
        yield running
    finally:
        await running.close()
        os.environ.clear()
        os.environ.update(environment)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
async def test_the_engine_and_the_policy_agree_on_how_likely_a_choice_was(
    engine: Engine, tiny_model: str, temperature: float
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    policy = PolicyModel(model, temperature=temperature, chunk_tokens=3)
    requests = [
        GenerationRequest(token_ids=prompt, max_tokens=1, temperature=temperature, seed=seed)
        for seed, prompt in enumerate(PROMPTS)
    ]
    free = [engine.generate(request) for request in requests]  # decoded in the same batches
    drawn = await asyncio.gather(
        *(choose(engine.generate, request, CHOICES) for request in requests), *free
    )
    restricted = drawn[: len(PROMPTS)]
    assert {one.text for one in restricted} == set(CHOICES.texts)
    samples = [_sample(*pair) for pair in zip(PROMPTS, restricted, strict=True)]
    inputs = collate(samples, torch.device("cpu"))
    with torch.no_grad():
        found_N, _ = policy(inputs.row, inputs.position_N, inputs.target_N, inputs.allowed_2M)
    torch.testing.assert_close(found_N, inputs.sampler_logprob_N, atol=1e-5, rtol=1e-5)
    assert (found_N < -0.01).any()


def _sample(prompt: tuple[int, ...], drawn: Generation) -> Sample:
    read = Segment(author=Author.PROMPT, token_ids=prompt, text="")
    wrote = Segment(
        author=Author.POLICY, token_ids=drawn.token_ids, text=drawn.text, allowed=drawn.allowed
    )
    token_ids = np.array([*prompt, *drawn.token_ids])
    logprobs = np.array([0.0] * len(prompt) + list(drawn.logprobs), dtype=np.float32)
    return Sample(
        id=drawn.text,
        token_ids=token_ids,
        mask=np.arange(len(token_ids)) >= len(prompt),
        advantages=np.zeros(len(token_ids), dtype=np.float32),
        sampler_logprobs=logprobs,
        allowed=allowed_positions([read, wrote]),
    )

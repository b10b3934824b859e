"""The real engine of rollout.py."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from bench.rollout.paced import OPTIONS, SEED
from ur2.rollout.engines.base import GenerationRequest
from ur2.rollout.engines.vllm import VllmEngine

MAX_MODEL_LEN = 2048


def make_engine(model: str) -> "BenchEngine":
    """Not started."""
    return BenchEngine(
        OPTIONS.engine,
        model_path=model,
        dtype="float32",
        max_model_len=MAX_MODEL_LEN,
        seed=SEED,
    )


class BenchEngine(VllmEngine):
    """The engine of a run, which counts what it computes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.computed: dict[int, int] = {}
        """Tokens of the context that were not in the cache, by the seed of the request."""

    def _arguments(self) -> dict[str, Any]:
        longer = {"max_position_embeddings": MAX_MODEL_LEN}
        return {**super()._arguments(), "hf_overrides": longer}

    async def start(self) -> None:
        await super().start()
        generate = self._llm.generate

        async def counted(prompt: Any, sampling: Any, id: str) -> AsyncIterator[Any]:
            async for output in generate(prompt, sampling, id):
                num_tokens = len(output.prompt_token_ids)
                self.computed[sampling.seed] = num_tokens - output.num_cached_tokens
                yield output

        self._llm.generate = counted

    async def bare(self, requests: Sequence[GenerationRequest]) -> None:
        """All requests at once, without anything of ours around them."""
        from vllm.inputs import tokens_input

        async def one(id: str, request: GenerationRequest) -> None:
            prompt = tokens_input(list(request.token_ids))
            async for _ in self._llm.generate(prompt, self._sampling(request), id):
                pass

        await asyncio.gather(
            *(one(f"bare-{next(self._request_ids)}", request) for request in requests)
        )

    async def forget(self) -> None:
        """Empties the prefix cache, so that a repeat computes what the first did."""
        await self._llm.reset_prefix_cache()
        self.computed.clear()

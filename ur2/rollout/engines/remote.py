"""The remote engine: token ids to an endpoint that takes and returns them, as `vllm serve` does."""

from typing import Any

from ur2.errors import ComponentError, InputError
from ur2.rollout.engines.base import Finish, Generation, GenerationRequest
from ur2.rollout.engines.endpoint import Endpoint
from ur2.rollout.engines.text import decode, load_tokenizer, stop_ids
from ur2.rollout.options import EngineOptions
from ur2.transfer.records import Handover
from ur2.types import VersionRun

_FINISHES: dict[str, Finish] = {"stop": "stop", "length": "length"}


class RemoteEngine:
    """An engine behind an endpoint, which departs from the contract of `Engine` in two points.

    Its weights are fixed, and its logprobs are what the endpoint calls so: those of the sampling
    distribution where the server runs with `--logprobs-mode processed_logprobs`.
    """

    def __init__(
        self,
        options: EngineOptions,
        *,
        model_path: str,
        dtype: str,
        max_model_len: int,
        seed: int,
        sleeps: bool = False,
        revision: str | None = None,
    ) -> None:
        """Takes what `start` needs; the rest is the server's to set."""
        self._endpoint = Endpoint(options, model_path)
        self._model_path = model_path
        self._revision = revision
        self._max_model_len = max_model_len
        self._tokenizer: Any = None
        self.num_abandoned_tokens = 0
        """The endpoint does not tell how many tokens it sampled for requests that were given up."""

    async def start(self) -> None:
        """Loads the tokenizer and looks for the model at the endpoint.

        Raises:
            InputError: it is not there, or takes shorter contexts than episodes may reach.
            ComponentError: the endpoint does not answer.
        """
        self._tokenizer = load_tokenizer(self._model_path, self._revision)
        served = await self._endpoint.open()
        longest = served.get("max_model_len")
        if longest is not None and longest < self._max_model_len:
            raise InputError(
                f"the endpoint takes {longest} tokens, and episodes may reach "
                f"{self._max_model_len} (rollout.max_prompt_tokens + rollout.max_tokens): start it "
                f"with --max-model-len {self._max_model_len}, or lower these"
            )

    async def generate(self, request: GenerationRequest) -> Generation:
        """Samples one turn."""
        answer = await self._endpoint.request("POST", "completions", self._body(request))
        try:
            choice = answer["choices"][0]
            token_ids = tuple(int(token) for token in choice["token_ids"])
            logprobs = tuple(float(x) for x in choice["logprobs"]["token_logprobs"])
            finish = _FINISHES[choice["finish_reason"]]
            if not 0 < len(token_ids) == len(logprobs):
                raise ValueError(f"{len(token_ids)} token ids with {len(logprobs)} logprobs")
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ComponentError(
                "the endpoint returned no token ids with logprobs: it must be a recent "
                "`vllm serve`; set rollout.engine.remote.api=chat for one that knows text only"
            ) from error
        return Generation(
            token_ids=token_ids,
            logprobs=logprobs,
            text=decode(self._tokenizer, token_ids),
            finish=finish,
            weight_versions=(VersionRun(0, len(token_ids)),),
        )

    async def take(self, handover: Handover, version: int) -> None:
        """Refuses: an endpoint's weights are fixed."""
        raise ComponentError("a remote engine cannot take weights; train with vllm or hf")

    async def sleep(self, *, keep_weights: bool) -> None:
        """Refuses: an endpoint's memory is its own."""
        raise ComponentError("a remote engine cannot sleep; train with vllm or hf")

    async def wake(self) -> None:
        """Without effect: it never sleeps."""

    async def close(self) -> None:
        """Closes the connections."""
        await self._endpoint.close()

    def _body(self, request: GenerationRequest) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._endpoint.model,
            "prompt": list(request.token_ids),
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": request.top_k,
            # Left out, these are what the model's own generation config says.
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "stop": list(request.stop_strings),
            "stop_token_ids": list(stop_ids(self._tokenizer, request)),
            "ignore_eos": True,
            "include_stop_str_in_output": True,
            "skip_special_tokens": False,
            "return_token_ids": True,
            "logprobs": 1,
        }
        if request.allowed_token_ids:
            body["allowed_token_ids"] = list(request.allowed_token_ids)
        return body if request.seed is None else {**body, "seed": request.seed}

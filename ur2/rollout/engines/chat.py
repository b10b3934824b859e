"""An endpoint that speaks messages and knows no token ids: for evaluation, never for training.

Its episodes are played as any other. Tokens of what is read are counted by characters,
`CHARS_PER_TOKEN` for a token; tokens of what the model writes as the endpoint says, if it does.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, cast

from ur2.endpoints.chat import printable
from ur2.errors import ComponentError, InputError
from ur2.prompts.dialect import Markers
from ur2.prompts.options import PromptOptions
from ur2.prompts.render import PromptRenderer
from ur2.rollout.engines.base import Generation, GenerationRequest
from ur2.rollout.engines.endpoint import Endpoint
from ur2.rollout.options import EngineOptions
from ur2.transfer.records import Handover
from ur2.types import Author, Segment

CHARS_PER_TOKEN = 4


class ChatEngine:
    """The messages of an endpoint's chat interface, as an engine."""

    num_abandoned_tokens = 0

    def __init__(
        self,
        options: EngineOptions,
        *,
        model: str,
        markers: Sequence[Markers],
    ) -> None:
        """Takes what `start` needs.

        Args:
            options: the endpoint.
            model: the served name, where the options give none.
            markers: pairs whose closing marker stops a turn, and is cut off by the endpoint.

        Raises:
            InputError: the endpoint has no address.
        """
        self._endpoint = Endpoint(options, model)
        self._markers = markers

    async def start(self) -> None:
        """Looks for the model at the endpoint; see `Endpoint.open`."""
        await self._endpoint.open()

    async def generate(self, request: GenerationRequest) -> Generation:
        """One message of the assistant.

        Raises:
            InputError: the sampling is not for chat endpoints.
            ComponentError: the endpoint gave no answer after its retries.
        """
        check_chat_sampling(request.top_k)
        body = {
            "model": self._endpoint.model,
            "messages": list(_messages(request.context)),
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "stop": list(request.stop_strings),
        }
        if request.seed is not None:
            body["seed"] = request.seed
        answer = await self._endpoint.request("POST", "chat/completions", body)
        try:
            choice = answer["choices"][0]
            text = printable(choice["message"]["content"] or "")
            is_cut = str(choice["finish_reason"]) == "length"
        except (LookupError, TypeError, AttributeError) as error:
            raise ComponentError(f"the endpoint sent no chat completion: {answer}") from error
        return Generation(
            token_ids=tuple(range(_num_sampled(answer, text))),
            logprobs=(),
            text=text if is_cut else close_marker(text, self._markers),
            finish="length" if is_cut else "stop",
            weight_versions=(),
        )

    async def take(self, handover: Handover, version: int) -> None:
        """Refuses: an endpoint's weights are fixed."""
        raise ComponentError("a chat endpoint cannot take weights; train with vllm or hf")

    async def sleep(self, *, keep_weights: bool) -> None:
        """Refuses: its memory is elsewhere."""
        raise ComponentError("a chat endpoint cannot sleep")

    async def wake(self) -> None:
        """Does nothing: it never sleeps."""

    async def close(self) -> None:
        """Closes the connections."""
        await self._endpoint.close()


def check_chat_sampling(top_k: int) -> None:
    """Raises an InputError for what chat endpoints have no word for, and may ignore."""
    if top_k:
        raise InputError(
            f"chat endpoints have no top_k (it is {top_k}): set it to 0, or "
            "rollout.engine.remote.api=completions for an endpoint that takes it"
        )


def close_marker(text: str, markers: Sequence[Markers]) -> str:
    """`text` with the stop string that ended it, which chat endpoints cut off.

    It is put back where the marker opened last is not closed; a model that ends its turn there by
    itself is read the same way.
    """
    position, closing = max(
        ((text.rfind(pair.open), pair.close) for pair in markers), default=(-1, "")
    )
    return text if position < 0 or closing in text[position:] else f"{text}{closing}"


def text_renderer(prompt: PromptOptions) -> PromptRenderer:
    """Renders messages as JSON text, for an endpoint whose tokenizer is its own business.

    Raises:
        InputError: a template does not render.
    """
    return PromptRenderer(
        cast(Any, _JsonMessages()), prompt.model_copy(update={"chat_template_kwargs": {}})
    )


def _messages(context: Sequence[Segment]) -> Iterator[dict[str, str]]:
    """The prompt's own messages; then what the policy wrote and what it read, by turns."""
    prompt, *rest = context
    yield from json.loads(prompt.text)
    for wrote, segments in groupby(rest, lambda segment: segment.author is Author.POLICY):
        text = "".join(segment.text for segment in segments)
        yield {"role": "assistant" if wrote else "user", "content": text}


def _num_sampled(answer: Mapping[str, Any], text: str) -> int:
    usage = answer.get("usage")
    told = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return told if isinstance(told, int) else len(_tokens(text))


class _JsonMessages:
    """A tokenizer whose chat template is JSON and whose tokens only measure length."""

    name_or_path = "messages"
    chat_template = "json"
    eos_token = None
    eos_token_id = None
    added_tokens_decoder: Mapping[int, Any] = {}

    def apply_chat_template(self, messages: Sequence[Mapping[str, str]], **_: object) -> str:
        return json.dumps(messages, ensure_ascii=False)

    def encode(self, text: str, **_: object) -> range:
        return _tokens(text)


def _tokens(text: str) -> range:
    return range(-(-len(text) // CHARS_PER_TOKEN))

"""Episodes over a chat endpoint that knows text only: for evaluation, never for training.

An endpoint like this tells no token ids, so segments hold text alone, and each observation is a
message of the user. Token budgets of what the environment writes count characters instead,
`CHARS_PER_TOKEN` for a token; what the model writes counts as the endpoint says, if it does.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from ur2.endpoints.chat import printable
from ur2.errors import ComponentError, InputError
from ur2.prompts.dialect import Answer, Dialect, Search, Stop
from ur2.prompts.options import PromptOptions
from ur2.prompts.render import PromptRenderer
from ur2.rollout.engines.endpoint import Endpoint
from ur2.rollout.environment import Refused, Rules
from ur2.rollout.episode import turn_seed
from ur2.rollout.options import RolloutOptions, SamplingOptions
from ur2.rollout.search import Knowledge, lookup_for, search_once
from ur2.rollout.tasks import gather_or_cancel
from ur2.transfer.records import Handover
from ur2.types import (
    Assignment,
    Author,
    Group,
    SearchEvent,
    Segment,
    Status,
    Task,
    Trajectory,
)

CHARS_PER_TOKEN = 4


class ChatWorker:
    """Plays groups as `RolloutWorker` does, on an endpoint's chat interface."""

    def __init__(
        self,
        options: RolloutOptions,
        prompt: PromptOptions,
        *,
        model: str,
        knowledge: Knowledge,
        seed: int,
    ) -> None:
        """Takes what `start` needs.

        Args:
            options: endpoint and budgets.
            prompt: dialect and texts.
            model: the served name, where the options give none.
            knowledge: where its episodes search.
            seed: of the run, for seeded sampling.

        Raises:
            InputError: the endpoint has no address.
        """
        self.options = options
        self.renderer = text_renderer(options, prompt)
        self.knowledge = knowledge
        self.seed = seed
        self.endpoint = Endpoint(options.engine, model)

    async def start(self) -> None:
        """Looks for the model at the endpoint; see `Endpoint.open`."""
        await self.endpoint.open()

    async def run_group(
        self, assignment: Assignment, num_samples: int, sampling: SamplingOptions, first: int = 0
    ) -> Group:
        """Plays the episodes `first`, ..., `first + num_samples - 1` of one question, all at once.

        Raises:
            InputError: the sampling is not for chat endpoints.
            ComponentError: the endpoint gave no answer after its retries.
        """
        check_chat_sampling(sampling)
        trajectories = await gather_or_cancel(
            _Conversation(self, assignment, sampling, f"{assignment.id}/{index}").play()
            for index in range(first, first + num_samples)
        )
        return Group(assignment=assignment, trajectories=tuple(trajectories))

    async def take(self, handover: Handover, version: int) -> None:
        """Refuses: an endpoint's weights are fixed."""
        raise ComponentError("a chat endpoint cannot take weights; train with vllm or hf")

    async def close(self) -> None:
        """Closes the connections."""
        await self.endpoint.close()


class _Conversation:
    """One episode under way, as messages."""

    def __init__(
        self, worker: ChatWorker, assignment: Assignment, sampling: SamplingOptions, id: str
    ) -> None:
        self._worker = worker
        self._sampling = sampling
        self._id = id
        self._dialect = worker.renderer.dialect
        self._question = assignment.question
        self._rules = Rules(
            dialect=self._dialect,
            task=assignment.question.task,
            retrieval=assignment.retrieval,
            max_turns=worker.options.max_turns,
        )
        prompt = worker.renderer.prompt(assignment.question, assignment.retrieval)
        self._messages: list[dict[str, str]] = json.loads(prompt.text)
        self._segments = [Segment(author=Author.PROMPT, token_ids=(), text=prompt.text)]
        self._searches: list[SearchEvent] = []
        self._num_turns = 0
        self._num_tokens_left = worker.options.max_tokens

    async def play(self) -> Trajectory:
        """The whole episode."""
        while (status := await self._turn()) is None:
            pass
        return Trajectory(
            id=self._id,
            segments=tuple(self._segments),
            searches=tuple(self._searches),
            status=status,
        )

    async def _turn(self) -> Status | None:
        text, finish = await self._complete()
        if finish != "length":
            text = close_marker(text, self._dialect, self._rules.task)
        said = Segment(author=Author.POLICY, token_ids=(), text=text, step=self._num_turns)
        self._say("assistant", said)
        self._num_turns += 1
        if finish == "length":
            return Status.TRUNCATED
        match self._rules.react(text, num_turns=self._num_turns, num_searches=len(self._searches)):
            case Answer():
                return Status.ANSWERED
            case Stop():
                return Status.NO_ANSWER
            case Refused(query, status):
                self._searches.append(SearchEvent(query=query, outcome="refused"))
                return status
            case Search(query):
                return await self._search(query)

    async def _complete(self) -> tuple[str, str]:
        """What the model writes next, and why it stopped."""
        sampling, options = self._sampling, self._worker.options
        body = {
            "model": self._worker.endpoint.model,
            "messages": self._messages,
            "max_tokens": min(options.turn_tokens(self._rules.task), self._num_tokens_left),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "stop": list(self._dialect.stop_strings),
        }
        if sampling.seeded:
            body["seed"] = turn_seed(self._worker.seed, self._id, self._num_turns)
        try:
            async with asyncio.timeout(options.generate_timeout_s):
                answer = await self._worker.endpoint.request("POST", "chat/completions", body)
            choice = answer["choices"][0]
            text = printable(choice["message"]["content"] or "")
            self._num_tokens_left -= _num_sampled(answer, text)
            return text, str(choice["finish_reason"])
        except TimeoutError as error:
            raise ComponentError(
                f"the endpoint gave '{self._id}' no turn within {options.generate_timeout_s:g} s "
                "(rollout.generate_timeout_s)"
            ) from error
        except (LookupError, TypeError, AttributeError) as error:
            raise ComponentError(f"the endpoint sent no chat completion: {answer}") from error

    async def _search(self, query: str) -> Status | None:
        event, documents = await search_once(
            self._worker.knowledge,
            self._worker.renderer,
            lookup_for(self._question, self._segments, query),
            max_tokens=self._worker.options.max_observation_tokens,
            step=self._num_turns - 1,
        )
        self._searches.append(event)
        if documents is None:
            return Status.TOOL_FAILED
        said = [documents]
        if self._rules.must_answer(num_turns=self._num_turns, num_searches=len(self._searches)):
            last_turn = self._worker.renderer.last_turn(self._question, step=documents.step)
            said += [last_turn] if last_turn else []
        num_tokens = sum(len(segment.token_ids) for segment in said)
        if num_tokens >= self._num_tokens_left:
            return Status.TRUNCATED
        self._num_tokens_left -= num_tokens
        self._say("user", *said)
        return None

    def _say(self, role: str, *segments: Segment) -> None:
        """Adds one message, made of one segment or several."""
        text = "".join(segment.text for segment in segments)
        self._messages.append({"role": role, "content": text})
        self._segments.extend(replace(segment, token_ids=()) for segment in segments)


def check_chat_sampling(sampling: SamplingOptions) -> None:
    """Raises an InputError for what chat endpoints have no word for, and may ignore."""
    if sampling.top_k:
        raise InputError(
            f"chat endpoints have no top_k (it is {sampling.top_k}): set it to 0, or "
            "rollout.engine.remote.api=completions for an endpoint that takes it"
        )


def _num_sampled(answer: Mapping[str, Any], text: str) -> int:
    usage = answer.get("usage")
    told = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return told if isinstance(told, int) else len(_tokens(text))


def close_marker(text: str, dialect: Dialect, task: Task) -> str:
    """`text` with the stop string that ended it, which chat endpoints cut off.

    It is put back where the marker opened last is not closed; a model that ends its turn there by
    itself is read the same way.
    """
    form = dialect.answer_form(task)
    pairs = [(dialect.search.open, dialect.search.close)]
    if form.form == "tags":
        pairs.append((form.open, form.close))
    position, closing = max((text.rfind(opening), closing) for opening, closing in pairs)
    return text if position < 0 or closing in text[position:] else f"{text}{closing}"


def text_renderer(options: RolloutOptions, prompt: PromptOptions) -> PromptRenderer:
    """Renders messages as JSON text, for an endpoint whose tokenizer is its own business.

    Raises:
        InputError: a template does not render.
    """
    return PromptRenderer(
        cast(Any, _Messages()),
        Dialect(prompt.protocol),
        prompt.model_copy(update={"chat_template_kwargs": {}}),
        max_prompt_tokens=options.max_prompt_tokens,
    )


class _Messages:
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

"""Scripted players: a character tokenizer, an engine that reads from a script, a retriever."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from ur2.environments.base import Branch, Services
from ur2.environments.game import Game
from ur2.environments.options import EnvironmentOptions
from ur2.environments.search import SearchOptions
from ur2.prompts.options import PromptOptions
from ur2.prompts.render import PromptRenderer
from ur2.retrieval.reading.knowledge import RoutedKnowledge
from ur2.rollout.engines.base import Generation, GenerationRequest
from ur2.rollout.episode import Players, read_ask, run_episode
from ur2.rollout.options import RolloutOptions, SamplingOptions
from ur2.transfer.records import Handover
from ur2.types import (
    Assignment,
    Level,
    Passage,
    Question,
    RetrievalFailed,
    Trajectory,
    VersionRun,
)

PROMPT = PromptOptions.load(
    {
        "protocol": {
            "search": {"open": "<search>", "close": "</search>"},
            "documents": {"open": "<information>", "close": "</information>"},
            "answer": {"open": "<answer>", "close": "</answer>"},
            "max_searches": 3,
        },
        "templates": {"qa": {"search": "{{ question.text }}", "direct": "{{ question.text }}"}},
    },
    where="test",
)
END = "<|end|>"


class CharTokenizer:
    """One token per character, and one per special token."""

    chat_template = "fixed"
    name_or_path = "characters"
    eos_token = END
    specials = (END, "<search>", "</search>", "<information>", "</information>")
    eos_token_id = 1
    added_tokens_decoder: dict[int, Any] = {  # noqa: RUF012
        1 + index: SimpleNamespace(content=text, special=True)
        for index, text in enumerate(specials)
    }

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        token_ids = []
        while text:
            special = next((s for s in self.specials if text.startswith(s)), None)
            token_ids.append(1 + self.specials.index(special) if special else 100 + ord(text[0]))
            text = text[len(special) if special else 1 :]
        return token_ids

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(self.specials[t - 1] if t < 100 else chr(t - 100) for t in token_ids)

    def apply_chat_template(self, messages: Any, **_: Any) -> str:
        return f"{messages[-1]['content']}{END}"


TOKENIZER = CharTokenizer()


@dataclass
class ScriptedEngine:
    """Writes what `script(context, seed)` says, as an engine would: cut at stops and budgets."""

    script: Callable[[GenerationRequest], str]
    version: int = 7
    requests: list[GenerationRequest] = field(default_factory=list)
    hangs: bool = False

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def take(self, handover: Handover, version: int) -> None:
        self.version = version
        if self.hangs:
            await asyncio.Event().wait()

    async def generate(self, request: GenerationRequest) -> Generation:
        self.requests.append(request)
        await asyncio.sleep(0)
        if self.hangs:
            await asyncio.Event().wait()
        token_ids: list[int] = []
        finish = "length"
        for token in TOKENIZER.encode(self.script(request)):
            if len(token_ids) == request.max_tokens:
                break
            token_ids.append(token)
            text = TOKENIZER.decode(token_ids)
            if token in request.stop_token_ids or text.endswith(request.stop_strings):
                finish = "stop"
                break
        return Generation(
            token_ids=tuple(token_ids),
            logprobs=tuple(-float(t) for t in token_ids),
            text=TOKENIZER.decode(token_ids),
            finish=finish,
            weight_versions=(VersionRun(self.version, len(token_ids)),),
        )


@dataclass
class ScriptedRetriever:
    """Answers with `passages`, a failure, or when `gate` opens."""

    passages: tuple[Passage, ...] | RetrievalFailed = (Passage(id="p1", text="Paris."),)
    gate: asyncio.Event | None = None
    queries: list[str] = field(default_factory=list)

    async def search(
        self, queries: Sequence[str], top_k: int, corpus: str | None = None
    ) -> list[tuple[Passage, ...] | RetrievalFailed]:
        self.queries.extend(queries)
        if self.gate is not None:
            await self.gate.wait()
        return [self.passages for _ in queries]


def turns(*texts: str) -> Callable[[GenerationRequest], str]:
    """A script that writes the given turns one after the other."""
    left = iter(texts)
    return lambda _: next(left)


def assignment(*, retrieval: bool = True, id: str = "0-0") -> Assignment:
    question = Question(id="q", task="qa", text="Where?", answers=("Paris",), level=Level.EASY)
    return Assignment(id=id, question=question, retrieval=retrieval, reason="test", step=0)


def make_players(
    engine: ScriptedEngine,
    retriever: ScriptedRetriever | None = None,
    knowledge: Any = None,
    last_turn: str | None = None,
    environment: EnvironmentOptions | None = None,
    **options: Any,
) -> Players:
    """Players of the search game, whose budgets may be given among the options."""
    prompt = PROMPT.model_copy(update={"last_turn": last_turn})
    own = {key: options.pop(key) for key in SearchOptions.model_fields if key in options}
    renderer = PromptRenderer(TOKENIZER, prompt)  # type: ignore[arg-type]
    return Players(
        engine=engine,
        renderer=renderer,
        game=Game.load(environment or EnvironmentOptions(search=SearchOptions(**own))),
        services=Services(
            knowledge=knowledge
            or RoutedKnowledge(retriever=retriever or ScriptedRetriever(), top_k=1),
            wording=renderer.wording,
        ),
        options=RolloutOptions(**options),
    )


async def play(
    script: Callable[[GenerationRequest], str] | ScriptedEngine,
    retriever: ScriptedRetriever | None = None,
    *,
    retrieval: bool = True,
    sampling: SamplingOptions | None = None,
    branch: Branch | None = None,
    **options: Any,
) -> Trajectory:
    engine = script if isinstance(script, ScriptedEngine) else ScriptedEngine(script)
    players, given = make_players(engine, retriever, **options), assignment(retrieval=retrieval)
    return await run_episode(
        players,
        given,
        sampling or SamplingOptions(),
        partial(read_ask, players.renderer),
        trajectory_id="0-0/0",
        seed=1,
        branch=branch,
    )


@pytest.fixture
def game() -> SimpleNamespace:
    """The scripted players by name; test files cannot import a conftest."""
    return SimpleNamespace(
        ScriptedEngine=ScriptedEngine,
        ScriptedRetriever=ScriptedRetriever,
        tokenizer=TOKENIZER,
        turns=turns,
        assignment=assignment,
        make_players=make_players,
        play=play,
        prompt=PROMPT,
        END=END,
    )

"""Scripted players: a character tokenizer, an engine that reads from a script, a retriever."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

from ur2.environments.base import Branch, Environment, Services, Tool
from ur2.environments.game import Game
from ur2.prompts.options import PromptOptions
from ur2.prompts.render import PromptRenderer
from ur2.retrieval.reading.knowledge import RoutedKnowledge
from ur2.rollout.engines.base import Finish, Generation, GenerationRequest
from ur2.rollout.episode import Players, read_ask, run_episode
from ur2.rollout.options import RolloutOptions, SamplingOptions
from ur2.testing.records import make_assignment
from ur2.transfer.records import Handover
from ur2.types import Assignment, Passage, RetrievalFailed, Trajectory, VersionRun

_TEXTS = {"search": "{{ question.text }}", "direct": "{{ question.text }}"}
PROMPT = PromptOptions.load(
    {
        "protocol": {
            "search": {"open": "<search>", "close": "</search>"},
            "documents": {"open": "<information>", "close": "</information>"},
            "answer": {"open": "<answer>", "close": "</answer>"},
            "max_searches": 3,
        },
        "templates": {"qa": _TEXTS, "math": _TEXTS, "choice": _TEXTS},
    },
    where="ur2.testing",
)
"""The question alone, and the markers of Search-R1."""
END = "<|end|>"
"""The scripted model's end of turn."""


class CharacterTokenizer:
    """One token per character, and one per special token."""

    chat_template = "fixed"
    name_or_path = "characters"
    eos_token = END
    specials = (END, "<search>", "</search>", "<information>", "</information>")
    eos_token_id = 1
    added_tokens_decoder: Mapping[int, Any] = {
        1 + index: SimpleNamespace(content=text, special=True)
        for index, text in enumerate(specials)
    }

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The ids of a text."""
        token_ids = []
        while text:
            special = next((s for s in self.specials if text.startswith(s)), None)
            token_ids.append(1 + self.specials.index(special) if special else 100 + ord(text[0]))
            text = text[len(special) if special else 1 :]
        return token_ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of ids."""
        return "".join(self.specials[t - 1] if t < 100 else chr(t - 100) for t in token_ids)

    def apply_chat_template(self, messages: Any, **_: Any) -> str:
        """The last message, ended."""
        return f"{messages[-1]['content']}{END}"


TOKENIZER = CharacterTokenizer()


@dataclass
class ScriptedEngine:
    """Writes what `script(request)` says, as an engine would: cut at stops and budgets."""

    script: Callable[[GenerationRequest], str]
    version: int = 7
    requests: list[GenerationRequest] = field(default_factory=list)
    hangs: bool = False
    num_abandoned_tokens: int = 0
    _begun: dict[tuple[int, ...], tuple[int, ...]] = field(default_factory=dict)
    """By context, what is left to write of a choice."""

    async def start(self) -> None:
        """Nothing is loaded."""

    async def close(self) -> None:
        """Nothing is held."""

    async def sleep(self, *, keep_weights: bool) -> None:
        """Nothing is given up."""

    async def wake(self) -> None:
        """Nothing is taken back."""

    async def take(self, handover: Handover, version: int) -> None:
        """Notes the version of weights that it is handed."""
        self.version = version
        if self.hangs:
            await asyncio.Event().wait()

    async def generate(self, request: GenerationRequest) -> Generation:
        """The turn that the script has for a request."""
        self.requests.append(request)
        await asyncio.sleep(0)
        if self.hangs:
            await asyncio.Event().wait()
        token_ids: list[int] = []
        finish: Finish = "length"
        for token in self._script_ids(request):
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

    def _script_ids(self, request: GenerationRequest) -> tuple[int, ...]:
        """The script's tokens; a choice is asked for token by token, and scripted as one turn."""
        if request.token_ids in self._begun:
            return self._begun.pop(request.token_ids)
        token_ids = tuple(TOKENIZER.encode(self.script(request)))
        if request.allowed_token_ids:
            for place in range(1, len(token_ids)):
                self._begun[request.token_ids + token_ids[:place]] = token_ids[place:]
        return token_ids


@dataclass
class ScriptedRetriever:
    """Answers with `passages`, a failure, or when `gate` opens."""

    passages: tuple[Passage, ...] | RetrievalFailed = (Passage(id="p1", text="Paris."),)
    gate: asyncio.Event | None = None
    asked: list[tuple[tuple[str, ...], int, str | None]] = field(default_factory=list)
    """Queries, `top_k` and corpus of each request."""

    @property
    def queries(self) -> list[str]:
        """All queries, in order."""
        return [query for queries, _, _ in self.asked for query in queries]

    async def search(
        self, queries: Sequence[str], top_k: int, corpus: str | None = None
    ) -> list[tuple[Passage, ...] | RetrievalFailed]:
        """The same for every query."""
        self.asked.append((tuple(queries), top_k, corpus))
        if self.gate is not None:
            await self.gate.wait()
        return [self.passages for _ in queries]


def turns(*texts: str) -> Callable[[GenerationRequest], str]:
    """A script that writes the given turns one after the other."""
    left = iter(texts)
    return lambda _: next(left)


def scripted_players(
    engine: ScriptedEngine,
    game: Game,
    *,
    knowledge: Any = None,
    prompt: PromptOptions = PROMPT,
    tools: Mapping[str, Tool] | None = None,
    **options: Any,
) -> Players:
    """A worker's players around a scripted engine.

    Args:
        engine: what writes.
        game: what it plays.
        knowledge: where episodes search; by default, one passage is all that is known.
        prompt: dialect and texts.
        tools: what environments may use, by name.
        options: of `RolloutOptions`.
    """
    renderer = PromptRenderer(cast(Any, TOKENIZER), prompt)
    return Players(
        engine=engine,
        renderer=renderer,
        game=game,
        services=Services(
            knowledge=knowledge or RoutedKnowledge(retriever=ScriptedRetriever(), top_k=1),
            wording=renderer.wording,
            tools=tools or {},
        ),
        options=RolloutOptions(**options),
    )


async def play_scripted(
    players: Players,
    assignment: Assignment,
    *,
    sampling: SamplingOptions | None = None,
    branch: Branch | None = None,
) -> Trajectory:
    """One episode of an assignment."""
    return await run_episode(
        players,
        assignment,
        sampling or SamplingOptions(),
        partial(read_ask, players.renderer),
        trajectory_id=f"{assignment.id}/0",
        seed=1,
        branch=branch,
    )


async def play(
    environment: type[Environment],
    *texts: str,
    options: Mapping[str, Any] | None = None,
    assignment: Assignment | None = None,
    tools: Mapping[str, Tool] | None = None,
) -> Trajectory:
    """An episode in which the policy writes the given turns, each ended by the model's end of turn.

    Args:
        environment: the class.
        texts: one per turn; the environment's stop strings cut them as they would a model's.
        options: the environment's own.
        assignment: the question, and whether it may be searched for.
        tools: what the environment may use, by name.
    """
    own = environment.Options.load(options or {}, where="environment.options")
    game = Game(name=environment.__name__, kind=environment, options=own)
    engine = ScriptedEngine(turns(*(text + END for text in texts)))
    players = scripted_players(engine, game, tools=tools)
    return await play_scripted(players, assignment or make_assignment())

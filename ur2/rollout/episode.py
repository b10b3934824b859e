"""One trajectory: the policy and the environment take turns, token by token accounted for."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ur2.errors import ComponentError
from ur2.prompts.dialect import Answer, Dialect, Search, Stop
from ur2.rollout.busy_time import BusyTime
from ur2.rollout.engines.base import Engine, Generation, GenerationRequest
from ur2.rollout.environment import Refused, Rules
from ur2.rollout.options import RolloutOptions, SamplingOptions
from ur2.rollout.search import DocumentRenderer, Knowledge, lookup_for, search_once
from ur2.rollout.timeouts import PausableTimeouts
from ur2.types import (
    Assignment,
    Author,
    Question,
    SearchEvent,
    Segment,
    Status,
    Trajectory,
)


class Renderer(DocumentRenderer, Protocol):
    """How an episode gets its prompt and its documents as token ids."""

    dialect: Dialect
    stop_token_ids: tuple[int, ...]

    def prompt(self, question: Question, retrieval: bool) -> Segment:
        """The question, up to where the policy starts to write."""
        ...

    def last_turn(self, question: Question, *, step: int = 0) -> Segment | None:
        """Words put before the turn in which only an answer helps."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Players:
    """Who takes part in every episode of a worker, and the budgets they share."""

    engine: Engine
    renderer: Renderer
    knowledge: Knowledge
    options: RolloutOptions
    timeouts: PausableTimeouts = field(default_factory=PausableTimeouts)
    """For turns, which wait while the engine sleeps."""
    busy: BusyTime = field(default_factory=BusyTime)
    """Of the time in which the engine has a turn to write."""


async def run_episode(
    players: Players,
    assignment: Assignment,
    prompt: Segment,
    sampling: SamplingOptions,
    *,
    trajectory_id: str,
    seed: int,
    on_sampled: Callable[[int], object] = lambda num_tokens: None,
) -> Trajectory:
    """Plays one episode to its end.

    Args:
        players: engine, renderer, knowledge and budgets.
        assignment: the question, and whether retrieval is on.
        prompt: the question as the policy reads it.
        sampling: the distribution that tokens are drawn from.
        trajectory_id: unique in the run.
        seed: of the run; with the trajectory's id it fixes the draws where `sampling.seeded`.
        on_sampled: told after each turn how many tokens it has.

    Raises:
        ComponentError: the engine died, or took longer than `generate_timeout_s` for a turn.
    """
    episode = _Episode(players, assignment, prompt, sampling, trajectory_id, seed)
    status = None
    while status is None:
        status = await episode.play_turn(on_sampled)
    return Trajectory(
        id=trajectory_id,
        segments=tuple(episode.segments),
        searches=tuple(episode.searches),
        status=status,
    )


class _Episode:
    """The record of an episode under way: segments and searches are only ever appended."""

    def __init__(
        self,
        players: Players,
        assignment: Assignment,
        prompt: Segment,
        sampling: SamplingOptions,
        trajectory_id: str,
        seed: int,
    ) -> None:
        self._players = players
        self._sampling = sampling
        self._id = trajectory_id
        self._seed = seed
        self._question = assignment.question
        self._rules = Rules(
            dialect=players.renderer.dialect,
            task=assignment.question.task,
            retrieval=assignment.retrieval,
            max_turns=players.options.max_turns,
        )
        self.segments = [prompt]
        self.searches: list[SearchEvent] = []
        self._context = list(prompt.token_ids)
        self._num_prompt_tokens = len(prompt.token_ids)
        self._num_turns = 0

    @property
    def _num_tokens_left(self) -> int:
        return self._players.options.max_tokens - (len(self._context) - self._num_prompt_tokens)

    async def play_turn(self, on_sampled: Callable[[int], object]) -> Status | None:
        """One turn of the policy and the environment's reaction; a status where it ends."""
        step = self._num_turns
        generation = await self._generate(step)
        on_sampled(len(generation.token_ids))
        self._append(
            Segment(
                author=Author.POLICY,
                token_ids=generation.token_ids,
                text=generation.text,
                logprobs=generation.logprobs,
                weight_versions=generation.weight_versions,
                step=step,
            )
        )
        self._num_turns += 1
        if generation.finish == "length":
            return Status.TRUNCATED
        match self._rules.react(
            generation.text, num_turns=self._num_turns, num_searches=len(self.searches)
        ):
            case Answer():
                return Status.ANSWERED
            case Stop():
                return Status.NO_ANSWER
            case Refused(query, status):
                self.searches.append(SearchEvent(query=query, outcome="refused"))
                return status
            case Search(query):
                return await self._search(query, step)

    async def _generate(self, step: int) -> Generation:
        players, sampling = self._players, self._sampling
        request = GenerationRequest(
            token_ids=tuple(self._context),
            max_tokens=min(players.options.turn_tokens(self._rules.task), self._num_tokens_left),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            stop_strings=players.renderer.dialect.stop_strings,
            stop_token_ids=players.renderer.stop_token_ids,
            seed=turn_seed(self._seed, self._id, step) if sampling.seeded else None,
        )
        timeout_s = players.options.generate_timeout_s
        try:
            with players.busy.running():
                async with players.timeouts.limit(timeout_s):
                    return await players.engine.generate(request)
        except TimeoutError as error:
            raise ComponentError(
                f"the engine gave trajectory '{self._id}' no turn within {timeout_s:g} s; "
                "it hangs, or rollout.generate_timeout_s is too short for its queue"
            ) from error

    async def _search(self, query: str, step: int) -> Status | None:
        event, documents = await search_once(
            self._players.knowledge,
            self._players.renderer,
            lookup_for(self._question, self.segments, query),
            max_tokens=self._players.options.max_observation_tokens,
            step=step,
        )
        self.searches.append(event)
        if documents is None:
            return Status.TOOL_FAILED
        added = [documents]
        if self._rules.must_answer(num_turns=self._num_turns, num_searches=len(self.searches)):
            last_turn = self._players.renderer.last_turn(self._question, step=step)
            added += [last_turn] if last_turn else []
        if sum(len(segment.token_ids) for segment in added) >= self._num_tokens_left:
            return Status.TRUNCATED
        for segment in added:
            self._append(segment)
        return None

    def _append(self, segment: Segment) -> None:
        self.segments.append(segment)
        self._context.extend(segment.token_ids)


def turn_seed(seed: int, trajectory_id: str, step: int) -> int:
    """The seed of one turn: the same on every machine and whatever runs beside it."""
    return zlib.crc32(f"{seed}/{trajectory_id}/{step}".encode())

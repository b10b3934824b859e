"""One trajectory: the policy and its environment take turns, token by token accounted for."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Protocol

from ur2.environments.base import Ask, Branch, End, Environment, Services, Turn
from ur2.environments.game import Game
from ur2.environments.toolbox.box import Toolbox
from ur2.environments.toolbox.options import ToolboxOptions
from ur2.errors import ComponentError, InputError, PluginError
from ur2.prompts.tool_calls import ToolSchema
from ur2.rollout.busy_time import BusyTime
from ur2.rollout.choices import Choices, choose, read_choices
from ur2.rollout.engines.base import Engine, Generation, GenerationRequest
from ur2.rollout.options import RolloutOptions, SamplingOptions
from ur2.rollout.record import EpisodeRecord
from ur2.rollout.timeouts import PausableTimeouts
from ur2.types import Assignment, Author, Segment, Status, ToolUse, Trajectory

Read = Callable[[Ask, int, bool], tuple[Segment, ...]]
"""The segments of what is asked in a turn; see `read_ask`."""


class Renderer(Protocol):
    """How an episode gets what is to be read as token ids."""

    stop_token_ids: tuple[int, ...]

    def opening(
        self,
        message: str,
        *,
        tools: Sequence[ToolSchema] = (),
        turn: int = 0,
        role: str = "policy",
    ) -> Segment:
        """A user's message that begins a context, up to where the policy starts to write."""
        ...

    def replies(
        self,
        texts: Sequence[str],
        *,
        max_tokens: Sequence[int | None],
        ended: bool = True,
        turn: int = 0,
    ) -> tuple[Segment, ...]:
        """Messages of tools that follow a turn, up to where the policy starts to write again."""
        ...

    def harmless(self, text: str) -> str:
        """A text for a user's message, with nothing in it that could forge a turn of the chat."""
        ...

    def piece(
        self,
        text: str,
        *,
        before: str = "",
        after: str = "",
        author: Author = Author.ENVIRONMENT,
        forbidden: tuple[str, ...] = (),
        max_tokens: int | None = None,
        turn: int = 0,
    ) -> Segment:
        """Renders what continues a context: `text`, cut to fit, between two fixed parts."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Players:
    """All that take part in every episode of a worker, and the budgets they share."""

    engine: Engine
    renderer: Renderer
    game: Game
    services: Services
    """The services that environments may call."""
    options: RolloutOptions
    toolbox: Toolbox = field(default_factory=lambda: Toolbox(ToolboxOptions()))
    """Owns the tools among the services."""
    timeouts: PausableTimeouts = field(default_factory=PausableTimeouts)
    """For turns, which wait while the engine sleeps."""
    busy: BusyTime = field(default_factory=BusyTime)
    """Counts the time in which the engine has a turn to write."""


async def run_episode(
    players: Players,
    assignment: Assignment,
    sampling: SamplingOptions,
    read: Read,
    *,
    trajectory_id: str,
    seed: int,
    on_sampled: Callable[[int], object] = lambda num_tokens: None,
    branch: Branch | None = None,
) -> Trajectory:
    """Plays one episode to its end.

    Args:
        players: engine, renderer, environments and budgets.
        assignment: the question, and whether retrieval is on.
        sampling: the distribution that tokens are drawn from.
        read: renders what is asked; the samples of a group share it, so that each text is rendered
            once.
        trajectory_id: unique in the run.
        seed: of the run; with the trajectory's id it fixes the draws where `sampling.seeded`.
        on_sampled: told after each turn how many tokens it has.
        branch: the record that the episode goes on from; None begins a new one.

    Raises:
        InputError: the question's prompt is too long.
        ComponentError: the engine died, or took longer than `generate_timeout_s` for a turn.
        PluginError: the environment raised, or gave what no environment may give.
    """
    record = EpisodeRecord(trajectory_id, branch)
    options = players.options
    environment, ask = players.game.opened(assignment, players.services, where=record.where)
    if branch is not None:
        ask = replace(ask, pieces=(branch.inject,), fresh=False)
        await _catch_up(players, environment, branch, record.where)
    else:
        check_prompt(read(ask, 0, False)[0], assignment, options)
    stop_ids = players.renderer.stop_token_ids
    while record.num_turns < options.max_turns:
        choices = _choices(players, ask, record.where)
        fits = record.take(read(ask, record.num_turns, record.ended(stop_ids)), options)
        if not fits or (choices is not None and choices.max_tokens > record.num_left(options)):
            return record.end(Status.TRUNCATED)
        written = await _write(players, record, ask, choices, sampling, seed)
        on_sampled(len(written.token_ids))
        turn = record.write(written, ask.role)
        if turn.is_cut and not getattr(environment, "reads_cut_turns", False):
            return record.end(Status.TRUNCATED)
        reply = await players.game.reply(
            environment, turn, ask.role, within_s=options.react_timeout_s, where=record.where
        )
        record.note(reply)
        if isinstance(reply.then, End):
            return record.end(reply.then.status, reply.then.answer)
        ask = reply.then
    return record.end(Status.OUT_OF_TURNS)


async def _catch_up(players: Players, environment: Environment, branch: Branch, where: str) -> None:
    """Shows an environment that keeps state the turns before a branch; its tools are used again.

    A turn that the branch cut is none: nothing follows it in the record.
    """
    if getattr(environment, "is_stateless", False):
        return
    events: tuple[ToolUse, ...] = ()
    transcript, number = "", 0
    for segment, following in pairwise(branch.segments):
        if segment.author is not Author.PROMPT:
            transcript += segment.text
        if segment.author is not Author.POLICY or following.author is Author.POLICY:
            continue
        number += 1
        turn = Turn(text=segment.text, number=number, events=events, transcript=transcript)
        limit = players.options.react_timeout_s
        reply = await players.game.reply(
            environment, turn, segment.role, within_s=limit, where=where
        )
        events += reply.events


def read_ask(renderer: Renderer, ask: Ask, turn: int, ended: bool = True) -> tuple[Segment, ...]:
    """Renders what is asked in a turn: one message that opens a context, or what continues one.

    A message is a prompt whoever wrote its pieces; in it, `text` may show markers, but cannot forge
    a turn of the chat.

    Args:
        renderer: how texts become tokens.
        ask: the pieces.
        turn: of the episode.
        ended: whether the turn before stands with the token that ends a turn of the model.
    """
    if ask.fresh:
        message = "".join(p.before + renderer.harmless(p.text) + p.after for p in ask.pieces)
        return (renderer.opening(message, tools=ask.tools, turn=turn, role=ask.role),)
    said = [piece for piece in ask.pieces if piece.role == "tool"]
    replies: tuple[Segment, ...] = ()
    if said:
        replies = renderer.replies(
            [piece.text for piece in said],
            max_tokens=[piece.max_tokens for piece in said],
            ended=ended,
            turn=max(turn - 1, 0),
        )
    return replies + tuple(
        renderer.piece(
            piece.text,
            before=piece.before,
            after=piece.after,
            author=piece.author,
            forbidden=ask.stop_strings,
            max_tokens=piece.max_tokens,
            turn=max(turn - 1, 0),
        )
        for piece in ask.pieces[len(said) :]
    )


def check_prompt(prompt: Segment, assignment: Assignment, options: RolloutOptions) -> None:
    """Raises an InputError where the prompt of a question is too long."""
    if len(prompt.token_ids) > options.max_prompt_tokens:
        raise InputError(
            f"question '{assignment.question.id}': its prompt has {len(prompt.token_ids)} tokens, "
            f"more than {options.max_prompt_tokens}; raise rollout.max_prompt_tokens or leave the "
            "question out"
        )


def turn_seed(seed: int, trajectory_id: str, turn: int) -> int:
    """The seed of one turn: the same on every machine and whatever runs beside it."""
    return zlib.crc32(f"{seed}/{trajectory_id}/{turn}".encode())


def _choices(players: Players, ask: Ask, where: str) -> Choices | None:
    """The choices of a turn, if it is restricted to some."""
    if not ask.choices:
        return None
    if players.options.engine.speaks_text:
        raise InputError(
            f"environment '{players.game.name}' restricts a turn to choices, which no chat "
            "endpoint can sample; set rollout.engine.remote.api=completions for a `vllm serve`, "
            "or rollout.engine.name=vllm"
        )
    try:
        return read_choices(ask.choices, players.renderer)
    except InputError as error:  # the environment's fault, and not the user's who runs it
        raise PluginError(f"environment '{players.game.name}' {where}: {error}") from error


async def _write(
    players: Players,
    record: EpisodeRecord,
    ask: Ask,
    choices: Choices | None,
    sampling: SamplingOptions,
    seed: int,
) -> Generation:
    """The policy's turn."""
    request = GenerationRequest(
        token_ids=tuple(record.token_ids),
        context=record.context,
        max_tokens=min(ask.max_tokens, record.num_left(players.options)),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        stop_strings=ask.stop_strings,
        stop_token_ids=players.renderer.stop_token_ids,
        seed=turn_seed(seed, record.id, record.num_turns) if sampling.seeded else None,
    )
    timeout_s = players.options.generate_timeout_s
    try:
        with players.busy.running():
            async with players.timeouts.limit(timeout_s):
                if choices is not None:
                    return await choose(players.engine.generate, request, choices)
                return await players.engine.generate(request)
    except TimeoutError as error:
        raise ComponentError(
            f"the engine gave trajectory '{record.id}' no turn within {timeout_s:g} s; "
            "it hangs, or rollout.generate_timeout_s is too short for its queue"
        ) from error

"""Worked examples as episodes: the environment plays them, with the turns that are given."""

from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any

from ur2.demonstrations import DemonstratedTurn, Demonstration
from ur2.environments.base import Ask, End, Reply, Services, Turn
from ur2.environments.game import Game
from ur2.errors import InputError
from ur2.prompts.render import PromptRenderer
from ur2.rollout.choices import read_choices
from ur2.rollout.episode import read_ask
from ur2.types import Assignment, Author, Finding, Lookup, Segment, ToolUse


class _Recorded:
    """Finds what each search of a demonstration found, in order."""

    def __init__(self, turns: Sequence[DemonstratedTurn]) -> None:
        self._found = iter([turn.documents for turn in turns if turn.search is not None])

    async def look_up(self, lookup: Lookup) -> Finding:
        return Finding(outcome=next(self._found))


def demonstrated(
    renderer: PromptRenderer, game: Game, demo: Demonstration
) -> tuple[tuple[Segment, ...], ...]:
    """A worked example as the episode that it would be, context by context.

    Turns are POLICY segments, or INJECTED ones (without loss) where `learn` is False. A turn that
    no stop string ends is followed by the tokenizer's end of turn.

    Raises:
        InputError: the environment cannot write demonstrations, or ends before its turns do.
    """
    question = demo.question
    assignment = Assignment(
        id=question.id, question=question, retrieval=demo.retrieval, reason="demonstration", step=0
    )
    services = Services(
        knowledge=_Recorded(demo.turns), wording=renderer.wording, demonstrates=True
    )
    environment: Any = game.environment(assignment, services)
    if not hasattr(environment, "written"):
        raise InputError(f"environment '{game.name}' has no `written`, so it cannot demonstrate")
    contexts: list[list[Segment]] = []
    events: tuple[ToolUse, ...] = ()
    then: Ask | End = environment.opening()
    for number, turn in enumerate(demo.turns, start=1):
        if isinstance(then, End):
            raise InputError(
                f"the demonstration of '{question.id}' is over after {number - 1} of its "
                f"{len(demo.turns)} turns ({then.status}); see the environment's limits"
            )
        if then.fresh:
            contexts.append([])
        contexts[-1] += read_ask(renderer, then, number - 1)
        text = environment.written(turn)
        author = Author.POLICY if turn.learn else Author.INJECTED
        contexts[-1].append(replace(_written(renderer, then, text, author), turn=number - 1))
        reply = _now(environment.react(Turn(text=text, number=number, events=events)))
        events, then = events + reply.events, reply.then
    return tuple(map(tuple, contexts))


def _written(renderer: PromptRenderer, ask: Ask, text: str, author: Author) -> Segment:
    """A demonstrated turn, up to and with what ends it."""
    if not ask.choices:
        end = "" if text.endswith(ask.stop_strings) else renderer.end_of_turn
        return renderer.piece("", before=text + end, author=author)
    if text not in ask.choices:
        raise InputError(f"a demonstration writes {text!r:.80}, which is none of {ask.choices}")
    choices = read_choices(ask.choices, renderer)
    written = renderer.piece("", before=text, author=author)
    return replace(written, allowed=choices.allowed(written.token_ids))


def _now(reacting: Coroutine[Any, Any, Reply]) -> Reply:
    """The reply of an environment that has nothing to wait for."""
    try:
        reacting.send(None)
    except StopIteration as done:
        reply: Reply = done.value
        return reply
    reacting.close()
    raise InputError("an environment that demonstrates must not wait for anything")

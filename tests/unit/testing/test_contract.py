"""What `check_environment` finds in environments that break their contract, and in ours."""

import asyncio
import itertools
import random
import re
from dataclasses import dataclass

import pytest

from ur2.environments import Ask, End, Piece, Reply, Turn
from ur2.environments.game import ENVIRONMENTS
from ur2.options import Options
from ur2.testing import check_environment, make_question
from ur2.types import Status


class NoOptions(Options):
    pass


class Fair:
    """Ends with the second turn; every broken one differs in one thing."""

    Options = NoOptions

    def __init__(self, assignment, options, services):
        self.question = assignment.question
        self.services = services

    def opening(self):
        return self.ask(self.question.text, fresh=True)

    def ask(self, text, **fields):
        return Ask(**{"pieces": (Piece(text=text),), "max_tokens": 9, **fields})

    async def react(self, turn: Turn):
        if turn.number == 2:
            return Reply(then=End(status=Status.ANSWERED, answer=turn.text))
        return Reply(then=self.ask("And?"))


class Sleeps(Fair):
    async def react(self, turn):
        await asyncio.Event().wait()


class Endless(Fair):
    async def react(self, turn):
        return Reply(then=self.ask("And?"))


class Stale(Fair):
    def opening(self):
        return self.ask("?")


class Silent(Fair):
    async def react(self, turn):
        return Reply(then=self.ask(""))


class Mute(Fair):
    def opening(self):
        return self.ask("?", fresh=True, max_tokens=0)


class Trusting(Fair):
    async def react(self, turn):
        if turn.number == 2:
            return await super().react(turn)
        return Reply(then=self.ask("", pieces=(Piece(before=f"You said {turn.text}"),)))


class TrustsQuestions(Fair):
    def opening(self):
        return self.ask("", pieces=(Piece(before=self.question.text),), fresh=True)


class Parses(Fair):
    async def react(self, turn):
        return Reply(then=End(status=Status.ANSWERED, answer=str(int(turn.text))))


class Numbers(Fair):
    async def react(self, turn):
        return Reply(then=End(status=Status.ANSWERED, answer=7))


class Nameless(Fair):
    async def react(self, turn):
        return Reply(then=End(status="done", answer=turn.text))


class Unanswered(Fair):
    async def react(self, turn):
        return Reply(then=End(status=Status.ANSWERED))


class Strange(Fair):
    async def react(self, turn):
        return "well done"


class Events(Fair):
    async def react(self, turn):
        return Reply(then=End(status=Status.NO_ANSWER), events=({"tool": "search"},))


class Rich(Fair):
    async def react(self, turn):
        return Reply(then=End(status=Status.NO_ANSWER), reward=float("inf"))


class Duet(Fair):
    roles = ("asker", "judge")

    def opening(self):
        return self.ask("?", fresh=True, role="asker")

    async def react(self, turn):
        if turn.number == 2:
            return Reply(then=End(status=Status.ANSWERED, answer=turn.text))
        return Reply(then=self.ask("And?", fresh=True, role="judge"))


class Unnamed(Duet):
    roles = ("asker",)


class Usurps(Duet):
    async def react(self, turn):
        reply = await super().react(turn)
        return Reply(then=self.ask("And?", role="judge")) if turn.number == 1 else reply


class Moody(Fair):
    async def react(self, turn):
        return Reply(then=End(status=Status.ANSWERED, answer=str(random.random())))


class Remembers(Fair):
    seen = itertools.count()

    async def react(self, turn):
        return Reply(then=End(status=Status.ANSWERED, answer=str(next(self.seen))))


class CutsBadly(Fair):
    reads_cut_turns = True

    async def react(self, turn):
        return None if turn.is_cut else await super().react(turn)


class Counting(Fair):
    """Keeps state."""

    def __init__(self, assignment, options, services):
        super().__init__(assignment, options, services)
        self.said = []

    async def react(self, turn):
        self.said.append(turn.text)
        if turn.number == 3:
            return Reply(then=End(status=Status.ANSWERED, answer=str(len(self.said))))
        return Reply(then=self.ask(f"{len(self.said)} so far"))


class Forgetful(Counting):
    is_stateless = True


@pytest.mark.parametrize("kind", [Fair, Counting, Duet, *ENVIRONMENTS.values()])
def test_an_environment_that_keeps_the_contract_is_told_so(kind):
    report = check_environment(kind)
    assert report.ok, str(report)
    assert report.num_games > 100
    assert "nothing found" in str(report)


@pytest.mark.parametrize(
    ("kind", "finding"),
    [
        (Endless, "a game is not over after 64 turns"),
        (Stale, "its Ask is not fresh"),
        (Silent, "an Ask has nothing to read"),
        (Mute, "max_tokens: input should be greater than or equal to 1, got 0"),
        (Trusting, "put it into `text`"),
        (TrustsQuestions, "put it into `text`"),
        (Parses, r"react raised: ValueError: invalid literal .*\(test_contract.py, line \d+\)"),
        (Numbers, "End.answer: input should be a valid string, got"),
        (Nameless, "End.status: .*got 'done'"),
        (Unanswered, "ANSWERED without an answer"),
        (Strange, "react gave 'well done', no Reply"),
        (Events, "events.0: .*instance of ToolUse"),
        (Rich, "reward: input should be a finite number, got inf"),
        (Unnamed, "role 'judge' is not among the `roles`"),
        (Usurps, "a context goes on under another role"),
        (Moody, "the same turns led to something else"),
        (Remembers, "the same turns led to something else"),
        (CutsBadly, "react gave None, no Reply .*a turn that was cut"),
        (Forgetful, "it says `is_stateless`, and earlier turns change it"),
    ],
)
def test_what_an_environment_breaks_is_told_in_words(kind, finding):
    report = check_environment(kind, questions=[make_question()])
    assert not report.ok
    assert re.search(finding, str(report)), str(report)


def test_an_environment_that_waits_for_ever_is_found(monkeypatch):
    monkeypatch.setattr("ur2.testing.contract.TIMEOUT_S", 0.001)
    monkeypatch.setattr("ur2.testing.contract.players", lambda seed: [("a", lambda *_: "a")])
    assert "react raised: TimeoutError" in str(check_environment(Sleeps))


@dataclass
class NoClass:
    name: str = ""


class Needs(Options):
    size: int


class Demanding(Fair):
    Options = Needs


@pytest.mark.parametrize(
    ("kind", "options", "finding"),
    [
        (NoClass, {}, "there is no opening and no react"),
        (type("Bare", (Fair,), {"Options": dict}), {}, "Options is no subclass"),
        (type("Rolled", (Fair,), {"roles": "judge"}), {}, "`roles` of Rolled is 'judge'"),
        (Demanding, {}, "'size' is required"),
        (Demanding, {"size": "x"}, "'size'"),
    ],
)
def test_a_class_that_cannot_be_played_is_told_so(kind, options, finding):
    assert finding in str(check_environment(kind, options=options))


async def test_it_runs_where_a_loop_is_running_already():
    report = check_environment(Fair, questions=[make_question("math")])
    assert report.ok


def test_each_breach_is_told_once():
    assert len(check_environment(Numbers).findings) == 1

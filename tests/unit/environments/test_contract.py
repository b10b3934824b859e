import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ur2.environments import Ask, End, Piece, Reply, ToolUse
from ur2.environments.game import Game
from ur2.errors import PluginError
from ur2.options import Options
from ur2.testing import ScriptedEngine, make_assignment, scripted_players
from ur2.testing.players import END, play_scripted
from ur2.types import Author, Status


class Odd:
    """An environment that breaks its contract as its options say."""

    class Options(Options):
        how: Any = ""

    roles = ("policy", "judge")

    def __init__(self, assignment, options, services):
        self.how = options.how

    def opening(self):
        if self.how == "opening":
            raise KeyError("lost")
        pieces = () if self.how == "empty" else (Piece(text="?"),)
        return Ask(
            pieces=pieces,
            fresh=self.how != "stale",
            max_tokens=0 if self.how == "mute" else 9,
            role="critic" if self.how == "stranger" else "policy",
        )

    async def react(self, turn):
        if isinstance(self.how, BaseException):
            raise self.how
        if isinstance(self.how, Reply):
            return self.how
        if self.how == "sleep":
            await asyncio.Event().wait()
        if self.how == "react":
            return 1 / 0
        if self.how == "long":
            return Reply(then=Ask(pieces=(Piece(text="x" * 600),), fresh=True, max_tokens=9))
        if self.how == "usurper":
            return Reply(then=Ask(pieces=(Piece(text="!"),), max_tokens=9, role="judge"))
        return None if self.how == "none" else Reply(then=self.opening())


async def odd(how, **options):
    engine = ScriptedEngine(lambda _: "so" + END)
    kind = Game(name="odd:Odd", kind=Odd, options=Odd.Options.model_construct(how=how))
    return await play_scripted(scripted_players(engine, kind, **options), make_assignment())


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("opening", r"KeyError: 'lost' \(test_contract.py, line \d+\)"),
        ("react", r"turn 1: ZeroDivisionError.*test_contract.py"),
        ("empty", "nothing to read"),
        ("stale", "its Ask is not fresh"),
        ("mute", "max_tokens: input should be greater than or equal to 1, got 0"),
        ("none", "react gave None, no Reply"),
        ("stranger", "role 'critic' is not among the `roles` that the class names, policy, judge"),
        ("usurper", "an Ask of 'judge' continues that of 'policy'"),
    ],
)
async def test_an_environment_that_breaks_its_contract_is_named_with_the_place(how, said):
    with pytest.raises(PluginError, match=rf"environment 'odd:Odd'.*'0-0/0'.*{said}"):
        await odd(how)


def test_a_reply_that_outlasts_its_time_is_named():
    with pytest.raises(PluginError, match=r"'odd:Odd'.*turn 1: no reply within 0.01 s \(test_cont"):
        asyncio.run(odd("sleep", react_timeout_s=0.01))


ENDED = End(status=Status.ANSWERED, answer="so")
USE = ToolUse(tool="t", arguments={}, outcome="found")
MORE = Ask(pieces=(Piece(text="!"),), max_tokens=9)
BROKEN: list[tuple[object, str]] = [
    (replace(ENDED, answer=7), "answer: input should be a valid string, got 7"),
    (replace(ENDED, answer=None), "ANSWERED without an answer"),
    (replace(ENDED, status="answered"), "status: .*got 'answered'"),
    (None, "`then` is None, no Ask or End"),
    (Reply(then=ENDED, events=[USE]), "events: .*tuple"),
    (Reply(then=ENDED, events=("x",)), "events.0: .*ToolUse, got 'x'"),
    (Reply(then=ENDED, events=(replace(USE, outcome="odd"),)), "events.0.outcome"),
    (Reply(then=ENDED, events=(replace(USE, arguments={"a": {1}}),)), "events.0.arguments.a"),
    (Reply(then=ENDED, reward=float("nan")), "reward: .*finite.*nan"),
    (Reply(then=ENDED, reward=float("-inf")), "reward: .*finite.*-inf"),
    (Reply(then=ENDED, reward="1"), "reward: .*number, got '1'"),
    (replace(MORE, pieces=[Piece(text="!")]), "pieces: .*tuple"),
    (replace(MORE, pieces=("!",)), "pieces.0: .*Piece, got '!'"),
    (replace(MORE, pieces=(Piece(text=5),)), "pieces.0.text: .*string, got 5"),
    (replace(MORE, pieces=(Piece(before="!", author=Author.POLICY),)), "pieces.0.author"),
    (replace(MORE, pieces=(Piece(before="!", author=Author.PROMPT),)), "PROMPT continues"),
    (replace(MORE, pieces=(Piece(text="!", max_tokens=0),)), "pieces.0.max_tokens"),
    (replace(MORE, pieces=(Piece(text="!"), Piece(text="?", role="tool"))), "tools come first"),
    (replace(MORE, pieces=(Piece(text="?", role="tool"),), fresh=True), "tools come first"),
    (replace(MORE, max_tokens=-3), "max_tokens: .*got -3"),
    (replace(MORE, max_tokens=2.5), "max_tokens: .*integer, got 2.5"),
    (replace(MORE, stop_strings="stop"), "stop_strings: .*tuple"),
    (replace(MORE, stop_strings=("",)), "stop_strings.0: .*at least 1 character"),
    (replace(MORE, choices=("a",)), "not two or more different texts"),
    (replace(MORE, choices=("a", "a")), "not two or more different texts"),
    (replace(MORE, choices=("a", "ab")), "'a' begins 'ab'"),
    (replace(MORE, tools=("x",), fresh=True), "tools.0: .*ToolSchema"),
]


@pytest.mark.parametrize(("given", "said"), BROKEN)
async def test_no_reply_of_another_kind_reaches_a_trajectory(given, said):
    reply = given if isinstance(given, Reply) else Reply(then=given)
    with pytest.raises(PluginError, match=rf"environment 'odd:Odd' in trajectory '0-0/0'.*{said}"):
        await odd(reply)


@pytest.mark.parametrize("raised", [SystemExit(3), asyncio.CancelledError(), StopIteration()])
async def test_an_exit_or_a_cancellation_of_an_environment_ends_no_worker(raised):
    with pytest.raises(PluginError, match=r"'odd:Odd' in trajectory '0-0/0', turn 1: "):
        await odd(raised)


async def test_a_number_of_another_library_is_a_reward_like_any_other():
    played = await odd(Reply(then=ENDED, reward=np.float32(0.5)))
    assert type(played.segments[-1].reward) is float


async def test_a_cancelled_episode_blames_nobody():
    playing = asyncio.create_task(odd("sleep"))
    await asyncio.sleep(0.01)
    playing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await playing


async def test_a_game_that_never_ends_is_ended_and_one_that_outgrows_the_context_is_cut():
    endless = await odd("", max_turns=7)
    assert (endless.status, len(endless.policy_texts)) == (Status.OUT_OF_TURNS, 7)
    assert (await odd("long")).status is Status.TRUNCATED

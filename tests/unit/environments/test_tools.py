import asyncio
import json
import os
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest

from ur2.environments.base import Ask, End, Services, Turn
from ur2.environments.game import Game
from ur2.environments.options import EnvironmentOptions
from ur2.environments.toolbox.base import Said, object_schema, used
from ur2.environments.toolbox.box import Toolbox
from ur2.environments.toolbox.options import ToolboxOptions
from ur2.environments.tools import ToolsEnvironment, ToolsOptions
from ur2.prompts.render import PromptRenderer
from ur2.prompts.tool_calls import ToolSchema
from ur2.prompts.wording import Wording
from ur2.retrieval.reading.knowledge import RoutedKnowledge
from ur2.rollout.engines.base import Generation
from ur2.rollout.episode import Players, read_ask, run_episode
from ur2.rollout.openings import make_services
from ur2.rollout.options import RolloutOptions, SamplingOptions
from ur2.testing import ScriptedRetriever, check_environment, make_assignment
from ur2.testing.players import PROMPT
from ur2.types import Author, RetrievalFailed, Status, ToolUse, VersionRun

SHARED = Path(os.environ.get("UR2_SHARED_DATA", Path(__file__).parents[4] / "shared/data"))
TOOLBOX = ToolboxOptions(search=True, calculate=True)


@dataclass
class Echo:
    """Says what it is told, after a while; counts how many do so at once."""

    outcome: str = "found"
    running: int = 0
    most: int = 0
    schema: ToolSchema = field(
        default_factory=lambda: ToolSchema(
            name="echo",
            description="Says it again.",
            parameters=object_schema({"text": {"type": "string"}}, ["text"]),
        )
    )

    async def use(self, arguments, transcript):
        async def call():
            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.sleep(0.05 if arguments["text"] != "hang" else 60)
            self.running -= 1
            return Said(text=arguments["text"], outcome=self.outcome)

        return await used("echo", arguments, call)


def call(name: str, **arguments) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def environment(retrieval=True, retriever=None, echo=None, **options) -> ToolsEnvironment:
    knowledge = RoutedKnowledge(retriever=retriever or ScriptedRetriever(), top_k=1)
    tools = {**Toolbox(TOOLBOX).tools, "echo": echo or Echo()}
    services = Services(knowledge=knowledge, wording=Wording(PROMPT), tools=tools)
    assignment = make_assignment(retrieval=retrieval)
    return ToolsEnvironment(assignment, ToolsOptions(**options), services)


async def react(text: str, number=1, events=(), is_cut=False, **fields):
    turn = Turn(text=text, number=number, events=events, is_cut=is_cut, transcript=text)
    return await environment(**fields).react(turn)


def outcomes(reply):
    return [(event.tool, event.outcome) for event in reply.events]


async def test_calls_of_one_turn_run_at_once_and_are_answered_in_order():
    echo = Echo()
    turn = "".join(call("echo", text=str(n)) for n in range(5)) + call("search", query="x")
    reply = await react(turn, echo=echo)
    assert echo.most == 5
    assert isinstance(reply.then, Ask)
    assert [piece.text for piece in reply.then.pieces] == ["0", "1", "2", "3", "4", "Paris."]
    assert {piece.role for piece in reply.then.pieces} == {"tool"}
    assert outcomes(reply) == [("echo", "found")] * 5 + [("search", "found")]
    assert reply.events[-1].query == "x"


@pytest.mark.parametrize(
    ("turn", "tool", "outcome", "said"),
    [
        (call("echo"), "echo", "invalid", "'text' is a required property"),
        (call("echo", text=1), "echo", "invalid", "not of type 'string'"),
        (call("nothing"), "unreadable", "invalid", "there are: search, calculate, echo"),
        ("<tool_call>{</tool_call>", "unreadable", "invalid", "cannot be read"),
        (call("echo", text="hang"), "echo", "failed", "no reply in time"),
        (call("calculate", expression="1/0"), "calculate", "invalid", "division by zero"),
    ],
)
async def test_what_goes_wrong_is_told_by_its_kind(turn, tool, outcome, said):
    reply = await react(turn, timeout_s=0.2)
    assert outcomes(reply) == [(tool, outcome)]
    assert said in json.loads(reply.then.pieces[0].text)["error"]
    if outcome == "invalid":
        ended = await react(turn, on_bad_call="end")
        assert ended.then == End(status=Status.NO_ANSWER)
        assert outcomes(ended) == [(tool, outcome)]


async def test_a_search_that_failed_ends_the_episode_and_blames_nobody():
    reply = await react(
        call("search", query="x"), retriever=ScriptedRetriever(RetrievalFailed(reason="down"))
    )
    assert reply.then == End(status=Status.TOOL_FAILED)
    assert outcomes(reply) == [("search", "failed")]


async def test_without_retrieval_no_search_is_offered_or_made():
    offered = [schema.name for schema in environment(retrieval=False).opening().tools]
    assert offered == ["calculate", "echo"]
    retriever = ScriptedRetriever()
    reply = await react(call("search", query="x"), retrieval=False, retriever=retriever)
    assert outcomes(reply) == [("search", "refused")]
    assert retriever.queries == []


async def test_calls_past_the_limit_are_refused():
    events = (ToolUse(tool="echo", arguments={}, outcome="found"),)
    turn = call("echo", text="a") + call("echo", text="b")
    reply = await react(turn, number=2, events=events, max_calls=2)
    assert [event.outcome for event in reply.events] == ["found", "refused"]
    last = await react(turn, number=3, max_turns=3)
    assert last.then == End(status=Status.OUT_OF_TURNS)
    assert [event.outcome for event in last.events] == ["refused", "refused"]


@pytest.mark.parametrize(
    ("turn", "status", "answer"),
    [
        ("<answer>Rome</answer><|im_end|>", Status.ANSWERED, "Rome"),
        (call("echo", text="x") + "<answer>Rome</answer>", Status.ANSWERED, "Rome"),
        ("<think><answer>no</answer></think><answer>Rome</answer>", Status.ANSWERED, "Rome"),
        ("<think><answer>Rome</answer>", Status.NO_ANSWER, None),
        ("<answer></answer>", Status.NO_ANSWER, None),
        ("I do not know.", Status.NO_ANSWER, None),
    ],
)
async def test_a_turn_without_calls_ends_the_episode(turn, status, answer):
    assert (await react(turn)).then == End(status=status, answer=answer)


async def test_a_turn_that_was_cut_may_have_answered():
    reply = await react("<answer>Rome</answer> and", is_cut=True)
    assert reply.then == End(status=Status.TRUNCATED, answer="Rome")
    assert (await react(call("echo", text="x"), is_cut=True)).then.status is Status.TRUNCATED


def test_it_keeps_the_contract_of_environments():
    report = check_environment(ToolsEnvironment, tools=Toolbox(TOOLBOX).tools)
    assert report.ok, str(report)


@dataclass
class Writer:
    """Writes given turns in a real model's tokens."""

    tokenizer: object
    texts: list[str]
    requests: list = field(default_factory=list)

    async def generate(self, request):
        self.requests.append(request)
        text = self.texts[len(self.requests) - 1] + self.tokenizer.eos_token
        token_ids = tuple(self.tokenizer.encode(text, add_special_tokens=False))
        return Generation(
            token_ids=token_ids,
            logprobs=(-1.0,) * len(token_ids),
            text=text,
            finish="stop",
            weight_versions=(VersionRun(0, len(token_ids)),),
        )


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3"])
async def test_an_episode_is_one_growing_context_in_the_models_own_words(name):
    folder = SHARED / "tokenizers" / name
    if not folder.is_dir():
        pytest.skip(f"no real tokenizers: {folder} is absent; UR2_SHARED_DATA names their folder")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    renderer = PromptRenderer(tokenizer, PROMPT)
    game = Game.load(EnvironmentOptions(name="tools", toolbox=TOOLBOX))
    toolbox = Toolbox(TOOLBOX)
    knowledge = RoutedKnowledge(retriever=ScriptedRetriever(), top_k=1)
    turns = [
        "<think>\nfirst\n</think>\n\n"
        + call("search", query="x")
        + call("calculate", expression="1+1"),
        "<think>\nthen\n</think>\n\n" + call("calculate", expression="2*3"),
        "<think>\nso\n</think>\n\n<answer>Paris</answer>",
    ]
    engine = Writer(tokenizer, turns)
    players = Players(
        engine=engine,
        renderer=renderer,
        game=game,
        services=make_services(renderer, game, toolbox, knowledge),
        options=RolloutOptions(),
    )
    played = await run_episode(
        players, make_assignment(), SamplingOptions(), partial(read_ask, renderer),
        trajectory_id="0/0", seed=0,
    )  # fmt: skip
    assert (played.status, played.answer) == (Status.ANSWERED, "Paris")
    assert [(e.tool, e.outcome) for e in played.events] == [
        ("search", "found"), ("calculate", "found"), ("calculate", "found"),
    ]  # fmt: skip
    assert len(played.contexts) == 1
    for before, after in zip(engine.requests, engine.requests[1:], strict=False):
        assert after.token_ids[: len(before.token_ids)] == before.token_ids
    messages = [{"role": "user", "content": "Where?"}]
    replies = [["Paris.", "2"], ["6"], []]
    for turn, said in zip(turns, replies, strict=True):
        messages.append({"role": "assistant", "content": turn})
        messages += [{"role": "tool", "content": text} for text in said]
    tools = [tool.schema.as_function() for tool in toolbox.tools.values()]
    whole = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
    assert tokenizer.decode(played.token_ids) + "\n" == whole
    wrote = [s.text for s in played.segments if s.author is Author.POLICY]
    assert wrote == [turn + tokenizer.eos_token for turn in turns]
    cut = replace(played, segments=played.segments[:-1])
    assert sum(cut.policy_mask) == sum(len(s.logprobs) for s in cut.segments)

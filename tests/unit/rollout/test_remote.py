"""Remote engines against a real HTTP server on this machine."""

import asyncio
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ur2.environments.game import Game
from ur2.environments.options import EnvironmentOptions
from ur2.environments.search import SearchOptions
from ur2.errors import ComponentError, InputError
from ur2.prompts.dialect import Dialect
from ur2.retrieval.reading.knowledge import RoutedKnowledge
from ur2.rollout.choices import Choices, choose
from ur2.rollout.engines.base import Generation, GenerationRequest
from ur2.rollout.engines.chat import close_marker, text_renderer
from ur2.rollout.engines.endpoint import Endpoint
from ur2.rollout.engines.remote import RemoteEngine
from ur2.rollout.openings import Openings
from ur2.rollout.options import EngineOptions, RemoteOptions, RolloutOptions, SamplingOptions
from ur2.rollout.worker import RolloutWorker, make_players
from ur2.types import Author, Finding, Passage, RetrievalFailed, Status, Unsearchable

KEY = "UR2_TEST_KEY"
REQUEST = GenerationRequest(
    token_ids=(7, 8, 9),
    max_tokens=4,
    temperature=0.3,
    top_p=0.5,
    stop_strings=("zz", "</search>"),
    stop_token_ids=(2,),
    seed=5,
)


class Server:
    """Answers each request with `reply(path, body)`: (status, JSON)."""

    def __init__(self, reply: Callable[[str, dict], tuple[int, object]]) -> None:
        self.requests: list[tuple[str, dict]] = []
        self.keys: list[str | None] = []
        self.model: dict[str, object] = {"id": "m"}
        server = self
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._send(200, {"data": [server.model]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    server.requests.append((self.path, body))
                    server.keys.append(self.headers["Authorization"])
                    status, answer = reply(self.path, body)
                self._send(status, answer)

            def _send(self, status: int, answer: object) -> None:
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None: ...

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def serve():
    servers = []

    def start(reply) -> Server:
        servers.append(Server(reply))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def engine_options(server: Server, **remote) -> EngineOptions:
    return EngineOptions(
        name="remote", remote=RemoteOptions(**{"url": server.url, "model": "m", **remote})
    )


def completion(*token_ids: int, finish: str = "stop") -> dict:
    return {
        "choices": [
            {
                "text": "ignored",
                "token_ids": list(token_ids),
                "logprobs": {"token_logprobs": [-0.5] * len(token_ids)},
                "finish_reason": finish,
            }
        ]
    }


async def generate(options: EngineOptions, tiny_model: str):
    engine = RemoteEngine(options, model_path=tiny_model, dtype="float32", max_model_len=64, seed=0)
    await engine.start()
    try:
        return await engine.generate(REQUEST)
    finally:
        await engine.close()


def test_token_ids_go_out_and_come_back_as_they_are(serve, tiny_model, monkeypatch):
    monkeypatch.setenv(KEY, "secret")
    server = serve(lambda path, body: (200, completion(50, 51, finish="length")))
    generation = asyncio.run(generate(engine_options(server, key_variable=KEY), tiny_model))
    assert generation.token_ids == (50, 51)
    assert generation.logprobs == (-0.5, -0.5)
    assert generation.finish == "length"
    assert generation.text not in ("", "ignored")
    ((path, body),) = server.requests
    assert path == "/v1/completions"
    assert server.keys == ["Bearer secret"]
    wanted = {"prompt": [7, 8, 9], "max_tokens": 4, "temperature": 0.3, "top_p": 0.5, "seed": 5}
    neutral = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "ignore_eos": True}
    assert (wanted | neutral).items() <= body.items()
    assert body["stop"] == ["zz", "</search>"]
    assert body["stop_token_ids"] == [2, 4]  # the marker is one token, too
    assert body["return_token_ids"] is True
    assert "allowed_token_ids" not in body


async def choose_one(options: EngineOptions, tiny_model: str) -> Generation:
    engine = RemoteEngine(options, model_path=tiny_model, dtype="float32", max_model_len=64, seed=0)
    await engine.start()
    try:
        choices = Choices(texts=("A", "B"), token_ids=((50,), (51,)))
        return await choose(engine.generate, REQUEST, choices)
    finally:
        await engine.close()


def test_a_choice_is_drawn_among_the_ids_that_the_endpoint_is_told(serve, tiny_model):
    server = serve(lambda path, body: (200, completion(51, finish="length")))
    assert asyncio.run(choose_one(engine_options(server), tiny_model)).text == "B"
    ((_, body),) = server.requests
    restricted = {"allowed_token_ids": [50, 51], "max_tokens": 1, "top_p": 1.0}
    assert restricted.items() <= body.items()


def test_an_endpoint_that_ignores_the_allowed_ids_is_named(serve, tiny_model):
    server = serve(lambda path, body: (200, completion(52, finish="length")))
    with pytest.raises(ComponentError, match="allowed_token_ids"):
        asyncio.run(choose_one(engine_options(server), tiny_model))


@pytest.mark.parametrize(
    "wrong",
    [
        {"token_ids": None},
        {"token_ids": [50]},
        {"token_ids": []},
        {"token_ids": ["fifty", "one"]},
        {"logprobs": None},
        {"logprobs": {"token_logprobs": [None, -0.5]}},
        {"logprobs": {"token_logprobs": ["?", -0.5]}},
        {"finish_reason": "abort"},
    ],
)
def test_an_endpoint_without_token_ids_and_logprobs_is_named_with_the_remedy(
    serve, tiny_model, wrong
):
    choice = completion(50, 51)["choices"][0] | wrong
    server = serve(lambda path, body: (200, {"choices": [choice]}))
    with pytest.raises(ComponentError, match="api=chat"):
        asyncio.run(generate(engine_options(server), tiny_model))


@pytest.mark.parametrize("longest", [63, 64, None])
def test_a_server_of_shorter_contexts_is_refused_before_the_first_question(
    serve, tiny_model, longest
):
    server = serve(lambda path, body: (200, completion(50)))
    server.model["max_model_len"] = longest
    if longest == 63:
        with pytest.raises(InputError, match=r"takes 63 tokens.*may reach 64.*--max-model-len 64"):
            asyncio.run(generate(engine_options(server), tiny_model))
        assert server.requests == []
    else:
        assert asyncio.run(generate(engine_options(server), tiny_model)).token_ids == (50,)


def endpoint(options: EngineOptions) -> Endpoint:
    return Endpoint(options, "m", backoff_s=0.001)


async def ask(options: EngineOptions, num: int = 1):
    client = endpoint(options)
    await client.open()
    try:
        return await asyncio.gather(*(client.request("POST", "x", {"n": n}) for n in range(num)))
    finally:
        await client.close()


def test_failures_that_pass_are_tried_again_and_bounded(serve):
    statuses = iter([429, 503, 200])
    server = serve(lambda path, body: (next(statuses), {"ok": 1}))
    assert asyncio.run(ask(engine_options(server))) == [{"ok": 1}]
    broken = serve(lambda path, body: (500, {}))
    with pytest.raises(ComponentError, match=r"HTTP 500.*3 tries"):
        asyncio.run(ask(engine_options(broken, max_retries=2)))
    assert len(broken.requests) == 3


def test_a_wrong_request_is_not_tried_again(serve):
    server = serve(lambda path, body: (400, {"error": "too long"}))
    with pytest.raises(ComponentError, match=r"HTTP 400.*too long"):
        asyncio.run(ask(engine_options(server)))
    assert len(server.requests) == 1


def test_a_refused_key_a_missing_key_and_an_unknown_model_are_the_users_to_mend(serve, monkeypatch):
    server = serve(lambda path, body: (401, {}))
    with pytest.raises(InputError, match="key_variable"):
        asyncio.run(ask(engine_options(server)))
    monkeypatch.delenv(KEY, raising=False)
    with pytest.raises(InputError, match=f"{KEY} is not set"):
        asyncio.run(ask(engine_options(server, key_variable=KEY)))
    with pytest.raises(InputError, match="does not serve 'other' but: m"):
        asyncio.run(ask(engine_options(server, model="other")))


def test_an_address_that_is_no_endpoints_is_the_users_to_mend(serve_http):
    server = serve_http(lambda sent: 404)
    options = EngineOptions(name="remote", remote=RemoteOptions(url=server.url))
    with pytest.raises(InputError, match=r"has no /models .*rollout\.engine\.remote\.url.* /v1"):
        asyncio.run(ask(options))


@pytest.mark.parametrize("listed", ["{}", '{"data": null}', '{"data": [null, "m"]}'])
def test_an_endpoint_that_lists_no_models_is_taken_at_its_word(serve_http, http_answer, listed):
    server = serve_http(lambda sent: http_answer(body=listed.encode()))
    options = EngineOptions(name="remote", remote=RemoteOptions(url=server.url))
    assert len(asyncio.run(ask(options))) == 1


def test_no_more_requests_are_in_flight_than_allowed(serve_http, http_answer):
    server = serve_http(lambda sent: http_answer(body=b"{}", delay_s=0.02))
    remote = RemoteOptions(url=server.url)
    asyncio.run(ask(EngineOptions(name="remote", remote=remote, max_num_seqs=3), num=12))
    assert server.most_at_once == 3


def chat_reply(*contents: str, finish: str = "stop", num_tokens: int | None = None):
    left = iter(contents)
    usage = {} if num_tokens is None else {"usage": {"completion_tokens": num_tokens}}

    def reply(path, body):
        message = {"role": "assistant", "content": next(left)}
        return 200, {"choices": [{"message": message, "finish_reason": finish}], **usage}

    return reply


async def chat(
    game,
    server,
    *,
    retriever=None,
    knowledge=None,
    retrieval=True,
    last_turn=None,
    sampling=None,
    max_turns=5,
    **options,
):
    options = RolloutOptions(engine=engine_options(server, api="chat"), **options)
    players = make_players(
        options,
        game.prompt.model_copy(update={"last_turn": last_turn}),
        EnvironmentOptions(search=SearchOptions(max_tokens_per_turn=33, max_turns=max_turns)),
        model_path="m",
        dtype="float32",
        knowledge=knowledge
        or RoutedKnowledge(retriever=retriever or game.ScriptedRetriever(), top_k=1),
        seed=0,
    )
    worker = RolloutWorker(players, seed=0)
    await worker.start()
    try:
        group = await worker.run_group(
            game.assignment(retrieval=retrieval),
            1,
            sampling or SamplingOptions(temperature=0.3, top_p=0.5),
        )
    finally:
        await worker.close()
    return group.trajectories[0]


def test_a_chat_episode_searches_reads_and_answers(game, serve):
    server = serve(chat_reply("hm <search> capital", "<answer> Paris"))
    retriever = game.ScriptedRetriever((Passage(id="p1", text="Paris."),))
    trajectory = asyncio.run(chat(game, server, retriever=retriever))
    assert trajectory.status is Status.ANSWERED
    assert retriever.queries == ["capital"]
    assert trajectory.policy_texts == ["hm <search> capital</search>", "<answer> Paris</answer>"]
    authors = [segment.author for segment in trajectory.segments]
    assert authors == [Author.PROMPT, Author.POLICY, Author.ENVIRONMENT, Author.POLICY]
    assert trajectory.token_ids == []
    messages = server.requests[1][1]["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[0]["content"] == "Where?"
    assert messages[2]["content"] == "<information> Paris. </information>"
    assert server.requests[0][1]["max_tokens"] == 33
    assert server.requests[0][1]["stop"] == ["</search>", "</answer>"]


def test_words_before_the_last_turn_are_part_of_a_message_of_the_user(game, serve):
    server = serve(chat_reply("hm <search> capital", "<answer> Paris"))
    trajectory = asyncio.run(chat(game, server, max_turns=2, last_turn="Answer now."))
    authors = [segment.author for segment in trajectory.segments]
    assert authors[2:] == [Author.ENVIRONMENT, Author.INJECTED, Author.POLICY]
    messages = server.requests[1][1]["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[2]["content"].endswith("</information>Answer now.")


def test_a_chat_episode_is_told_what_cannot_be_searched(game, serve):
    class Judging:
        async def look_up(self, lookup):
            assert lookup.reasoning == "hm <search> 6 x 7</search>"
            return Finding(outcome=Unsearchable(reply="Think instead."))

    server = serve(chat_reply("hm <search> 6 x 7", "<answer> 42"))
    trajectory = asyncio.run(chat(game, server, knowledge=Judging()))
    assert [event.outcome for event in trajectory.searches] == ["unsearchable"]
    assert server.requests[1][1]["messages"][2]["content"].count("Think instead.") == 1
    assert trajectory.segments[2].author is Author.ENVIRONMENT


@pytest.mark.parametrize(
    ("content", "finish", "retrieval", "status"),
    [
        ("no idea", "stop", True, Status.NO_ANSWER),
        ("so long", "length", True, Status.TRUNCATED),
        ("<search> q", "stop", False, Status.NO_ANSWER),
    ],
)
def test_a_chat_episode_ends_as_any_other(game, serve, content, finish, retrieval, status):
    server = serve(chat_reply(content, finish=finish))
    assert asyncio.run(chat(game, server, retrieval=retrieval)).status is status


def test_a_chat_episode_without_its_retriever_is_a_tool_failure(game, serve):
    server = serve(chat_reply("<search> q"))
    retriever = game.ScriptedRetriever(RetrievalFailed(reason="down"))
    trajectory = asyncio.run(chat(game, server, retriever=retriever))
    assert trajectory.status is Status.TOOL_FAILED


@pytest.mark.parametrize(
    ("num_tokens", "used"),
    # of 19 characters; the documents have 35
    [(None, 5 + 9), (20, 20 + 9)],
)
def test_what_is_written_and_read_counts_towards_a_chat_episodes_budget(
    game, serve, num_tokens, used
):
    def play(max_tokens):
        server = serve(chat_reply("hm <search> capital", "<answer> P", num_tokens=num_tokens))
        trajectory = asyncio.run(chat(game, server, max_tokens=max_tokens))
        return trajectory, [body["max_tokens"] for _, body in server.requests]

    trajectory, asked = play(used + 1)
    assert trajectory.status is Status.ANSWERED
    assert asked == [used + 1, 1]
    trajectory, asked = play(used)
    assert trajectory.status is Status.TRUNCATED
    assert asked == [used]
    assert [segment.author for segment in trajectory.segments] == [Author.PROMPT, Author.POLICY]
    assert [event.outcome for event in trajectory.searches] == ["found"]


def test_half_a_character_from_a_chat_endpoint_reaches_nobody(game, serve):
    server = serve(chat_reply("<search> x\ud83d", "<answer> y"))
    retriever = game.ScriptedRetriever()
    trajectory = asyncio.run(chat(game, server, retriever=retriever))
    assert trajectory.status is Status.ANSWERED
    assert retriever.queries == ["x?"]


@pytest.mark.parametrize(
    "choices", [[], [{"message": {"content": ["Paris"]}, "finish_reason": "stop"}]]
)
def test_a_reply_that_is_no_chat_completion_is_shown(game, serve, choices):
    server = serve(lambda path, body: (200, {"choices": choices}))
    with pytest.raises(ComponentError, match=r"no chat completion: .*choices"):
        asyncio.run(chat(game, server))


def test_a_cut_that_chat_endpoints_do_not_know_is_refused(game, serve):
    server = serve(chat_reply("<answer> Paris"))
    with pytest.raises(InputError, match=r"top_k.*api=completions"):
        asyncio.run(chat(game, server, sampling=SamplingOptions(top_k=5)))
    assert server.requests == []


@pytest.mark.parametrize(
    ("text", "closed"),
    [
        ("a <search> b", "a <search> b</search>"),
        ("a <search> b</search>", "a <search> b</search>"),
        ("<search> b</search> <answer> c", "<search> b</search> <answer> c</answer>"),
        ("nothing", "nothing"),
    ],
)
def test_the_stop_string_that_endpoints_cut_off_is_put_back(game, text, closed):
    assert close_marker(text, Dialect(game.prompt.protocol).pairs) == closed


def test_a_question_longer_than_the_prompt_budget_is_refused_for_endpoints_too(game):
    openings = Openings(
        renderer=text_renderer(game.prompt),
        game=Game.load(EnvironmentOptions()),
        options=RolloutOptions(max_prompt_tokens=2),
    )
    with pytest.raises(InputError, match="max_prompt_tokens"):
        openings.prompt(game.assignment().question, True)

import asyncio
import json
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import pytest

from ur2.errors import InputError, RetrievalError
from ur2.retrieval.client import HttpTransport, LocalTransport, RetrievalClient
from ur2.retrieval.errors import RetrievalUnavailableError
from ur2.types import Passage, RetrievalFailed

FOUND = (Passage(id="a", text="words"),)
Attempt = Exception | list[tuple[Passage, ...]] | None


class ScriptedTransport:
    """Goes through its script, an attempt at a time; None never answers."""

    def __init__(self, *script: Attempt) -> None:
        self.script = list(script)
        self.num_attempts = 0
        self.closed = False

    async def search(self, queries: Sequence[str], top_k: int) -> list[tuple[Passage, ...]]:
        step = self.script[min(self.num_attempts, len(self.script) - 1)]
        self.num_attempts += 1
        if step is None:
            await asyncio.Event().wait()
        if isinstance(step, Exception):
            raise step
        assert step is not None
        return step

    async def close(self) -> None:
        self.closed = True


def client(transport: Any, **options: Any) -> RetrievalClient:
    return RetrievalClient(transport, backoff_s=0.0, **options)


async def test_a_failure_that_may_pass_is_tried_again() -> None:
    transport = ScriptedTransport(RetrievalUnavailableError("busy"), [FOUND])
    retriever = client(transport, max_retries=1)
    assert await retriever.search(["q"], 1) == [FOUND]
    assert transport.num_attempts == 2
    assert retriever.metrics()["failure_rate"] == 0.0


async def test_attempts_are_bounded_and_end_in_one_typed_failure_per_query() -> None:
    transport = ScriptedTransport(RetrievalUnavailableError("busy"))
    retriever = client(transport, max_retries=2)
    outcomes = await retriever.search(["q", "r"], 1)
    assert outcomes == [RetrievalFailed(reason="busy")] * 2
    assert transport.num_attempts == 3
    assert retriever.metrics()["failure_rate"] == 1.0
    assert retriever.metrics()["num_queries"] == 2


async def test_a_failure_that_will_not_pass_is_not_tried_again() -> None:
    transport = ScriptedTransport(RetrievalError("no such index"), [FOUND])
    assert await client(transport).search(["q"], 1) == [RetrievalFailed(reason="no such index")]
    assert transport.num_attempts == 1


async def test_the_deadline_ends_a_search_that_hangs() -> None:
    retriever = client(ScriptedTransport(None), deadline_s=0.01)
    assert await retriever.search(["q"], 1) == [RetrievalFailed(reason="no answer within 0.01 s")]
    assert retriever.metrics()["latency_p99_s"] >= 0.01


async def test_the_deadline_covers_all_attempts_together() -> None:
    transport = ScriptedTransport(RetrievalUnavailableError("busy"))
    retriever = RetrievalClient(transport, deadline_s=0.05, max_retries=10**6, backoff_s=0.001)
    (outcome,) = await retriever.search(["q"], 1)
    assert isinstance(outcome, RetrievalFailed)
    assert "no answer within" in outcome.reason


async def test_cancelling_an_episode_is_not_a_failure_of_retrieval() -> None:
    retriever = client(ScriptedTransport(None))
    task = asyncio.create_task(retriever.search(["q"], 1))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert retriever.metrics()["num_queries"] == 0


async def test_figures_tell_failed_from_found() -> None:
    transport = ScriptedTransport([FOUND], RetrievalError("gone"))
    retriever = client(transport)
    await retriever.search(["q"], 1)
    await retriever.search(["q"], 1)
    metrics = retriever.metrics()
    assert metrics["failure_rate"] == 0.5
    assert 0 < metrics["latency_p50_s"] <= metrics["latency_p99_s"]


async def test_closing_the_client_closes_its_transport() -> None:
    transport = ScriptedTransport([FOUND])
    await client(transport).close()
    assert transport.closed


async def test_a_local_transport_leaves_the_service_open() -> None:
    service = ScriptedTransport([FOUND])
    transport = LocalTransport(service)
    assert await transport.search(["q"], 1) == [FOUND]
    await transport.close()
    assert not service.closed


def http_transport(answer: Callable[[httpx.Request], httpx.Response]) -> HttpTransport:
    transport = HttpTransport("http://127.0.0.1:1/", token="t")
    transport._http = httpx.AsyncClient(
        base_url="http://127.0.0.1:1", transport=httpx.MockTransport(answer)
    )
    return transport


async def test_http_asks_and_reads_as_search_r1_does() -> None:
    seen: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.url.path, json.loads(request.content)))
        documents = [
            {"document": {"id": "1", "contents": "Paris\nA city.\nLarge."}, "score": 0.5},
            {"document": {"id": "2", "contents": "\nNo title."}, "score": 0.25},
            {"document": {"id": "3", "contents": "One line", "url": "x"}, "score": 0},
        ]
        return httpx.Response(200, json={"result": [documents]})

    found = await http_transport(answer).search(["caf\u00e9 \ud800"], 3)
    assert seen == [
        ("/retrieve", {"queries": ["caf\u00e9 \ud800"], "topk": 3, "return_scores": True})
    ]
    assert found == [
        (
            Passage(id="1", title="Paris", text="A city.\nLarge.", score=0.5),
            Passage(id="2", text="No title.", score=0.25),
            Passage(id="3", text="One line", score=0.0),
        )
    ]


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_an_overloaded_server_may_be_asked_again(status: int) -> None:
    with pytest.raises(RetrievalUnavailableError, match=str(status)):
        await http_transport(lambda _: httpx.Response(status)).search(["q"], 1)


@pytest.mark.parametrize(
    ("response", "complaint"),
    [
        (httpx.Response(401, text="send a token"), "401: send a token"),
        (httpx.Response(422, text="topk"), "422: topk"),
        (httpx.Response(200, text="<html>"), "no Search-R1 response"),
        (httpx.Response(200, json={"result": [[{"id": "1"}]]}), "no Search-R1 response"),
        (httpx.Response(200, json={"result": []}), "0 results for 1 queries"),
    ],
)
async def test_an_answer_that_is_no_use_is_not_asked_for_again(
    response: httpx.Response, complaint: str
) -> None:
    with pytest.raises(RetrievalError, match=complaint) as raised:
        await http_transport(lambda _: response).search(["q"], 1)
    assert not isinstance(raised.value, RetrievalUnavailableError)


async def test_a_server_that_is_not_there_may_come_back() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(RetrievalUnavailableError, match="does not answer"):
        await http_transport(refuse).search(["q"], 1)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://", "http://x:abc", ""])
def test_an_address_that_cannot_be_one_is_bad_input(url: str) -> None:
    with pytest.raises(InputError, match="retrieval url"):
        HttpTransport(url)


def test_a_client_travels_to_another_process_before_its_first_use() -> None:
    original = RetrievalClient(HttpTransport("http://127.0.0.1:1"), deadline_s=1.5)
    assert pickle.loads(pickle.dumps(original)).metrics() == original.metrics()

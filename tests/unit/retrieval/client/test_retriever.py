import asyncio
import json
import pickle
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import pytest

from ur2.errors import InputError, RetrievalError
from ur2.retrieval.client.errors import RetrievalOverloadedError, RetrievalUnavailableError
from ur2.retrieval.client.retriever import HttpTransport, LocalTransport, RetrievalClient
from ur2.types import Passage, RetrievalFailed

FOUND = (Passage(id="a", text="words"),)
Attempt = Exception | list[tuple[Passage, ...]] | None


class EchoingTransport:
    """Finds the query itself, and notes what it was asked; a service that refuses what is odd."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def search(
        self, queries: Sequence[str], top_k: int, corpus: str | None, within_s: float
    ) -> list[tuple[Passage, ...]]:
        self.asked += queries
        if any(not query.strip() or len(query) > 20 for query in queries):
            raise RetrievalError("422")
        return [(Passage(id=query, text=query),) for query in queries]

    async def close(self) -> None: ...


async def test_what_a_policy_writes_is_no_failure_of_the_service() -> None:
    transport = EchoingTransport()
    retriever = client(transport, max_query_chars=20)
    found = await retriever.search(["a", "", " \n", "b" * 500, "c"], 1)
    assert [tuple(p.id for p in passages) for passages in found] == [  # type: ignore[union-attr]
        ("a",), (), (), ("b" * 20,), ("c",),
    ]  # fmt: skip
    assert transport.asked == ["a", "b" * 20, "c"]
    assert await retriever.search([""], 1) == [()]
    assert len(transport.asked) == 3
    assert retriever.metrics()["failure_rate"] == 0.0


class ScriptedTransport:
    """Goes through its script, an attempt at a time; None never answers."""

    def __init__(self, *script: Attempt) -> None:
        self.script = list(script)
        self.num_attempts = 0
        self.asked: list[tuple[str | None, float | None]] = []
        self.closed = False

    async def search(
        self,
        queries: Sequence[str],
        top_k: int,
        corpus: str | None = None,
        within_s: float | None = None,
    ) -> list[tuple[Passage, ...]]:
        self.asked.append((corpus, within_s))
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
    started_s = time.perf_counter()
    (outcome,) = await retriever.search(["q"], 1)
    assert isinstance(outcome, RetrievalFailed)
    assert outcome.reason in ("busy", "no answer within 0.05 s")
    assert time.perf_counter() - started_s < 20
    left_s = [within_s for _, within_s in transport.asked]
    assert left_s == sorted(left_s, reverse=True)
    assert 0 < left_s[-1] <= left_s[0] <= 0.05


async def test_the_corpus_reaches_the_service() -> None:
    transport = ScriptedTransport([FOUND])
    await client(transport).search(["q"], 1, "medicine")
    await LocalTransport(transport).search(["q"], 1, "wiki", 2.0)
    assert transport.asked == [("medicine", pytest.approx(30, abs=1)), ("wiki", 2.0)]


def overloaded(retry_after_s: float) -> RetrievalOverloadedError:
    return RetrievalOverloadedError("come back later", retry_after_s)


async def test_a_retry_waits_as_long_as_the_service_asks() -> None:
    transport = ScriptedTransport(overloaded(0.05), [FOUND])
    started_s = time.perf_counter()
    assert await client(transport).search(["q"], 1) == [FOUND]
    assert time.perf_counter() - started_s >= 0.05


async def test_a_wait_past_the_deadline_is_not_begun() -> None:
    transport = ScriptedTransport(overloaded(60), [FOUND])
    started_s = time.perf_counter()
    outcomes = await client(transport, deadline_s=30).search(["q"], 1)
    assert outcomes == [RetrievalFailed(reason="come back later")]
    assert time.perf_counter() - started_s < 20


async def test_what_keeps_failing_is_left_alone_until_one_search_finds_it_back() -> None:
    gone = RetrievalUnavailableError("gone")
    transport = ScriptedTransport(gone, gone, [FOUND])
    options = {"max_retries": 0, "breaker_failures": 2, "breaker_rest_s": 1.0}
    retriever = client(transport, **options)
    for _ in range(2):
        await retriever.search(["q"], 1)
    outcomes = [(await retriever.search(["q"], 1))[0] for _ in range(5)]
    assert {o.reason for o in outcomes if isinstance(o, RetrievalFailed)} == {
        "not asked: the retriever has failed too often lately"
    }
    assert (len(outcomes), transport.num_attempts) == (5, 2)
    await asyncio.sleep(1.0)
    assert await retriever.search(["q"], 1) == [FOUND]
    assert await retriever.search(["q"], 1) == [FOUND]


async def test_neither_overload_nor_refusal_opens_the_breaker() -> None:
    for failure in (overloaded(0), RetrievalError("422")):
        transport = ScriptedTransport(failure)
        retriever = client(transport, max_retries=0, breaker_failures=1)
        await retriever.search(["q"], 1)
        await retriever.search(["q"], 1)
        assert transport.num_attempts == 2


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
    assert await transport.search(["q"], 1, None, 1.0) == [FOUND]
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
            {"document": {"id": 3, "contents": "One line", "url": "x"}, "score": 0},
        ]
        return httpx.Response(200, json={"result": [documents]})

    found = await http_transport(answer).search(["caf\u00e9 \ud800"], 3, "wiki", 9.5)
    assert seen == [
        (
            "/retrieve",
            {
                "queries": ["caf\u00e9 ?"],
                "topk": 3,
                "return_scores": True,
                "corpus": "wiki",
                "deadline_s": 9.5,
            },
        )
    ]
    assert found == [
        (
            Passage(id="1", title="Paris", text="A city.\nLarge.", score=0.5),
            Passage(id="2", text="No title.", score=0.25),
            Passage(id="3", text="One line", score=0.0),
        )
    ]


@pytest.mark.parametrize(
    ("status", "headers", "retry_after_s"),
    [
        (429, {"Retry-After": "7"}, 7.0),
        (503, {"Retry-After": " 2 "}, 2.0),
        (429, {"Retry-After": "-1"}, None),
        (503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        (500, {}, None),
    ],
)
async def test_a_troubled_server_may_be_asked_again_when_it_says(
    status: int, headers: dict[str, str], retry_after_s: float | None
) -> None:
    response = httpx.Response(status, headers=headers)
    with pytest.raises(RetrievalUnavailableError, match=str(status)) as raised:
        await http_transport(lambda _: response).search(["q"], 1, None, 1.0)
    assert raised.value.retry_after_s == retry_after_s
    assert isinstance(raised.value, RetrievalOverloadedError) == (status == 429)


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
        await http_transport(lambda _: response).search(["q"], 1, None, 1.0)
    assert not isinstance(raised.value, RetrievalUnavailableError)


async def test_a_server_that_is_not_there_may_come_back() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(RetrievalUnavailableError, match="does not answer"):
        await http_transport(refuse).search(["q"], 1, None, 1.0)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://", "http://x:abc", ""])
def test_an_address_that_cannot_be_one_is_bad_input(url: str) -> None:
    with pytest.raises(InputError, match="retrieval url"):
        HttpTransport(url)


def test_a_client_travels_to_another_process_before_its_first_use() -> None:
    original = RetrievalClient(HttpTransport("http://127.0.0.1:1"), deadline_s=1.5)
    assert pickle.loads(pickle.dumps(original)).metrics() == original.metrics()

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ur2.errors import InputError
from ur2.retrieval.client.wire import Document, ScoredDocument, contents, to_passage
from ur2.retrieval.options import ServeOptions
from ur2.retrieval.serve import listen
from ur2.retrieval.service.app import create_app
from ur2.retrieval.service.batching import RetrievalService
from ur2.retrieval.service.corpora import Corpora
from ur2.types import Passage

JSON = {"Content-Type": "application/json"}


OPTIONS = ServeOptions(
    index="unused",
    top_k=2,
    max_top_k=5,
    max_queries=3,
    max_query_chars=40,
    max_body_bytes=1000,
    cache_size=0,
)


def caller(service: Any, token: str | None = None, **more: Any) -> httpx.AsyncClient:
    app = create_app(service, OPTIONS, token=token, **more)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


@pytest.fixture
async def service(open_service: Any, encoder: Any) -> AsyncIterator[Any]:
    service = open_service(OPTIONS)
    yield service
    encoder.released.set()
    await service.close()


@pytest.fixture
async def http(service: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with caller(service) as http:
        yield http


async def test_documents_come_as_search_r1_sends_them(http: httpx.AsyncClient) -> None:
    body = {"queries": ["fact 1", "fact 2"], "topk": 3, "return_scores": True}
    result = (await http.post("/retrieve", json=body)).json()["result"]
    assert [len(documents) for documents in result] == [3, 3]
    assert result[0][0]["document"] == {"id": "p1", "contents": "\nfact 1"}
    assert result[0][0]["score"] == pytest.approx(1.0, abs=1e-5)


async def test_no_query_makes_its_batch_fail(http: httpx.AsyncClient) -> None:
    rambling = "fact 1" + " and so on" * 50
    queries = ["fact 2", " \n", rambling]
    body = {"queries": queries, "topk": 1, "return_scores": True}
    response = await http.post("/retrieve", json=body)
    result = response.json()["result"]
    assert [len(documents) for documents in result] == [1, 0, 1]
    assert result[0][0]["document"]["contents"] == "\nfact 2"
    answers = (await http.post("/queries", json={"queries": ["", "fact 2"], "k": 1})).json()
    assert answers["answers"][0] == []
    assert len(answers["answers"][1]) == 1
    figures = (await http.get("/metrics")).text
    assert 'ur2_retrieval_bounded_queries_total{reason="cut"} 1.0' in figures
    assert 'ur2_retrieval_bounded_queries_total{reason="empty"} 2.0' in figures


async def test_without_scores_documents_are_bare_and_of_the_default_number(
    http: httpx.AsyncClient,
) -> None:
    result = (await http.post("/retrieve", json={"queries": ["fact 1"]})).json()["result"]
    assert result[0][0] == {"id": "p1", "contents": "\nfact 1"}
    assert len(result[0]) == 2


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"no json", "JSON"),
        (b"{}", "queries"),
        (b'{"queries": "fact"}', "queries"),
        (b'{"queries": ["a"], "topk": 0}', "topk must be between 1 and 5"),
        (b'{"queries": ["a"], "topk": 6}', "topk must be between 1 and 5"),
        (b'{"queries": ["a"], "topk": NaN}', "topk"),
        (b'{"queries": ["a"], "topk": "\\ud800"}', "topk"),
        (b'{"queries": ["a", "b", "c", "d"]}', "at most 3 queries"),
        (b'{"queries": ["a"], "topk": 1e999}', "topk"),
        (b'{"queries": ["a"], "deadline_s": 0}', "deadline_s"),
        (b'{"queries": ["a"], "deadline_s": Infinity}', "deadline_s"),
        (b'{"queries": ["a"], "corpus": "law"}', "no corpus 'law'; known: default"),
        (b'{"queries": ["a"], "corpus": "\\ud800"}', "no corpus '?'"),
        (b'{"queries": [["a"]]}', "queries"),
    ],
)
async def test_a_bad_request_is_answered_with_its_reason(
    http: httpx.AsyncClient, body: bytes, reason: str
) -> None:
    response = await http.post("/retrieve", content=body, headers=JSON)
    assert response.status_code == 422
    assert reason in response.json()["detail"]


@pytest.mark.parametrize(
    "body", [b"[" * 900, b'{"queries": 1, "corpus": ' + b"9" * 900 + b"}", b"\xff\xfe", b'"']
)
@pytest.mark.parametrize("path", ["/retrieve", "/queries", "/reload"])
async def test_hostile_bodies_are_the_callers_fault(
    http: httpx.AsyncClient, path: str, body: bytes
) -> None:
    response = await http.post(path, content=body, headers=JSON)
    assert response.status_code in (400, 422)
    assert response.json()["detail"]


async def test_nesting_and_numbers_past_what_python_reads_are_the_callers_fault(
    open_service: Any,
) -> None:
    service = open_service(OPTIONS)
    large = OPTIONS.model_copy(update={"max_body_bytes": 2**20})
    transport = httpx.ASGITransport(
        create_app(service, large, token=None), raise_app_exceptions=False
    )
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        for value in (b"[" * 200_000, b"9" * 10_000):
            body = b'{"queries": ["a"], "topk": ' + value + b"}"
            response = await http.post("/retrieve", content=body, headers=JSON)
            assert response.status_code in (400, 422)
    await service.close()


async def test_a_body_that_is_too_large_is_refused_before_it_is_read(
    http: httpx.AsyncClient,
) -> None:
    sent = []

    async def chunks() -> AsyncIterator[bytes]:
        for number in range(100):
            sent.append(number)
            yield b" " * 300

    response = await http.post("/retrieve", content=chunks(), headers=JSON)
    assert (response.status_code, len(sent)) == (413, 4)
    assert "at most 1000 bytes" in response.json()["detail"]
    declared = {**JSON, "Content-Length": "1001"}
    sent.clear()
    response = await http.post("/retrieve", content=chunks(), headers=declared)
    assert (response.status_code, len(sent)) == (413, 0)


async def test_a_query_of_broken_unicode_is_still_a_query(http: httpx.AsyncClient) -> None:
    response = await http.post("/retrieve", content=b'{"queries": ["\\ud800"]}', headers=JSON)
    assert response.status_code == 200


async def test_a_failure_of_the_service_is_a_503(http: httpx.AsyncClient, encoder: Any) -> None:
    encoder.fail_with = RuntimeError("out of memory")
    response = await http.post("/retrieve", json={"queries": ["fact 1"]})
    assert response.status_code == 503
    assert "out of memory" in response.json()["detail"]


async def test_an_overload_says_when_to_come_back(open_service: Any, encoder: Any) -> None:
    service = open_service(OPTIONS.model_copy(update={"max_waiting": 1}))
    encoder.released.clear()
    async with caller(service) as http:
        bodies = [{"queries": [f"fact {i}"]} for i in range(3)]
        first = asyncio.create_task(http.post("/retrieve", json=bodies[0]))
        await asyncio.to_thread(encoder.entered.wait, 10)
        second = asyncio.create_task(http.post("/retrieve", json=bodies[1]))
        await asyncio.sleep(0.05)
        third = await http.post("/retrieve", json=bodies[2])
        encoder.released.set()
        answers = [await first, await second]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert third.status_code == 429
    assert int(third.headers["Retry-After"]) >= 1
    await service.close()


async def test_a_deadline_that_passed_is_a_504(http: httpx.AsyncClient, encoder: Any) -> None:
    encoder.released.clear()
    body = {"queries": ["fact 1"], "deadline_s": 0.01}
    response = await http.post("/retrieve", json=body)
    assert response.status_code == 504


async def test_ur2_is_answered_in_both_of_its_forms(open_service: Any, make_index: Any) -> None:
    other = make_index("other", passages=[Passage(id="o", title="Other", text="fact 1")])
    service = open_service(OPTIONS, {"wiki": make_index(), "medicine": other})
    async with caller(service) as http:
        plain = await http.post("/queries", json={"queries": ["fact 1", "fact 2"], "k": 1})
        rows: list[dict[str, Any]] = [
            {"query": "fact 1", "source": "medicine", "k": 1},
            {"query": "fact 2", "source": "default_source", "k": 3},
            {"query": "fact 3", "source": None},
        ]
        sourced = await http.post("/queries", json={"queries": rows})
        unknown = await http.post("/queries", json={"queries": [{"query": "a", "source": "law"}]})
        too_many = await http.post("/queries", json={"queries": ["a"], "k": 6})
    assert plain.json() == {
        "queries": ["fact 1", "fact 2"],
        "answers": [["\nfact 1"], ["\nfact 2"]],
    }
    results = sourced.json()["results"]
    assert results[0] == {
        "query": "fact 1", "answers": ["Other\nfact 1"], "source": "medicine", "k": 1
    }  # fmt: skip
    assert [(row["source"], row["k"], len(row["answers"])) for row in results[1:]] == [
        ("wiki", 3, 3),
        ("wiki", 2, 2),
    ]
    assert (unknown.status_code, too_many.status_code) == (422, 422)
    await service.close()


async def test_health_and_metrics_describe_the_service(http: httpx.AsyncClient) -> None:
    await http.post("/retrieve", json={"queries": ["fact 1", "fact 2"]})
    health = (await http.get("/health")).json()
    assert (health["status"], health["default"]) == ("ok", "default")
    assert (await http.get("/ready")).status_code == 200
    about = health["corpora"]["default"]
    assert (about["num_passages"], about["encoder"], about["index"]) == (20, "scripted", "flat")
    metrics = (await http.get("/metrics")).text.splitlines()
    assert 'ur2_retrieval_queries_total{corpus="default",outcome="answered"} 2.0' in metrics
    assert "ur2_retrieval_batch_size_sum 2.0" in metrics
    assert 'ur2_retrieval_passages{corpus="default"} 20.0' in metrics


async def test_a_service_without_its_indexes_is_alive_but_not_ready(make_index: Any) -> None:
    service = RetrievalService(Corpora({"a": make_index()}, OPTIONS), OPTIONS)
    async with caller(service) as http:
        health, ready = await http.get("/health"), await http.get("/ready")
        search = await http.post("/retrieve", json={"queries": ["fact 1"]})
    assert (health.status_code, health.json()["status"]) == (200, "starting")
    assert ready.status_code == 503
    assert (search.status_code, search.headers["Retry-After"]) == (503, "1")
    await service.close()


async def test_a_service_that_ends_refuses_searches_and_is_not_ready(service: Any) -> None:
    async with caller(service, stopping=lambda: True) as http:
        assert (await http.get("/health")).json()["status"] == "stopping"
        assert (await http.get("/ready")).status_code == 503
        response = await http.post("/retrieve", json={"queries": ["fact 1"]})
    assert (response.status_code, response.json()["detail"]) == (503, "the service is about to end")


async def test_a_reload_answers_with_what_is_open_then(
    service: Any, http: httpx.AsyncClient, make_index: Any, tmp_path: Path
) -> None:
    make_index(passages=[Passage(id="n", text="fact 1")])
    state = (await http.post("/reload", json={})).json()
    assert state["corpora"]["default"]["num_passages"] == 1
    (tmp_path / "index" / "manifest.json").unlink()
    refused = await http.post("/reload", json={"corpus": "default"})
    assert refused.status_code == 409
    assert "stays as it was" in refused.json()["detail"]
    body = {"queries": ["fact 1"], "topk": 1}
    assert (await http.post("/retrieve", json=body)).json()["result"][0][0]["id"] == "n"
    assert (await http.post("/reload", json={"corpus": "law"})).status_code == 422


async def test_a_token_is_asked_for_except_by_health_and_readiness(service: Any) -> None:
    async with caller(service, token="sésame") as http:
        body = {"queries": ["fact 1"]}
        right = [(b"Authorization", "Bearer sésame".encode())]
        wrong = {"Authorization": "Bearer sesame"}
        assert (await http.get("/health")).status_code == 200
        assert (await http.get("/ready")).status_code == 200
        assert (await http.get("/metrics")).status_code == 401
        for path in ("/retrieve", "/queries", "/reload"):
            assert (await http.post(path, json=body)).status_code == 401
            assert (await http.post(path, json=body, headers=wrong)).status_code == 401
            assert (await http.post(path, json=body, headers=right)).status_code == 200


@pytest.mark.parametrize("title", ["", "Paris"])
def test_a_passage_survives_the_wire(title: str) -> None:
    passage = Passage(id="1", title=title, text="A city.\nLarge.", score=0.5)
    document = Document(id=passage.id, contents=contents(passage))
    assert to_passage(ScoredDocument(document=document, score=0.5)) == passage


def test_an_open_address_needs_a_token() -> None:
    with pytest.raises(InputError, match="set token="):
        listen("0.0.0.0", 0, token=None)
    with listen("0.0.0.0", 0, token="t") as listener:
        assert listener.getsockname()[1] > 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.9"])
def test_loopback_needs_no_token(host: str) -> None:
    listen(host, 0, token=None).close()


def test_a_taken_port_is_named_with_the_remedy() -> None:
    with listen("127.0.0.1", 0, token=None) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(InputError, match=rf"port {port} of 127\.0\.0\.1 is taken.*port=0"):
            listen("127.0.0.1", port, token=None)


def test_documents_without_an_id_have_one_of_their_contents() -> None:
    bare = {"title": "Paris", "text": "A city.", "contents": '"Paris"\nA city.'}
    first, again = Document.model_validate(bare), Document.model_validate(dict(bare))
    other = Document.model_validate({**bare, "contents": '"Rome"\nA city.'})
    assert first.id == again.id != other.id
    assert len(first.id) == 16
    without_contents = Document.model_validate({"title": "Paris", "text": "A city."})
    passage = to_passage(ScoredDocument(document=without_contents, score=0.5))
    assert (passage.title, passage.text) == ("Paris", "A city.")
    assert Document.model_validate({"id": 7, "contents": "x"}).id == "7"

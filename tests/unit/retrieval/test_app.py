from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from ur2.errors import InputError
from ur2.retrieval.app import create_app
from ur2.retrieval.options import ServeOptions
from ur2.retrieval.serve import listen
from ur2.retrieval.service import RetrievalService
from ur2.retrieval.store import Store
from ur2.retrieval.wire import ScoredDocument, to_document, to_passage
from ur2.types import Passage

JSON = {"Content-Type": "application/json"}


def caller(make_index: Any, encoder: Any, token: str | None = None) -> httpx.AsyncClient:
    options = ServeOptions(
        index="unused", top_k=2, max_top_k=5, max_queries=3, max_query_chars=40, cache_size=0
    )
    app = create_app(RetrievalService(Store(make_index()), encoder, options), options, token=token)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


@pytest.fixture
async def http(make_index: Any, encoder: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with caller(make_index, encoder) as http:
        yield http


async def test_documents_come_as_search_r1_sends_them(http: httpx.AsyncClient) -> None:
    body = {"queries": ["fact 1", "fact 2"], "topk": 3, "return_scores": True}
    result = (await http.post("/retrieve", json=body)).json()["result"]
    assert [len(documents) for documents in result] == [3, 3]
    assert result[0][0]["document"] == {"id": "p1", "contents": "\nfact 1"}
    assert result[0][0]["score"] == pytest.approx(1.0, abs=1e-5)


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
        (b'{"queries": ["a", " "]}', "query 1 must have between 1 and 40"),
        (b'{"queries": ["' + b"a" * 41 + b'"]}', "query 0 must have between 1 and 40"),
        (b'{"queries": ["a", "b", "c", "d"]}', "at most 3 queries"),
    ],
)
async def test_a_bad_request_is_answered_with_its_reason(
    http: httpx.AsyncClient, body: bytes, reason: str
) -> None:
    response = await http.post("/retrieve", content=body, headers=JSON)
    assert response.status_code == 422
    assert reason in response.json()["detail"]


async def test_a_query_of_broken_unicode_is_still_a_query(http: httpx.AsyncClient) -> None:
    response = await http.post("/retrieve", content=b'{"queries": ["\\ud800"]}', headers=JSON)
    assert response.status_code == 200


async def test_a_failure_of_the_service_is_a_503(http: httpx.AsyncClient, encoder: Any) -> None:
    encoder.fail_with = RuntimeError("out of memory")
    response = await http.post("/retrieve", json={"queries": ["fact 1"]})
    assert response.status_code == 503
    assert "out of memory" in response.json()["detail"]


async def test_health_and_metrics_describe_the_service(http: httpx.AsyncClient) -> None:
    await http.post("/retrieve", json={"queries": ["fact 1", "fact 2"]})
    health = (await http.get("/health")).json()
    assert (health["status"], health["num_passages"], health["index"]) == ("ok", 20, "flat")
    assert "ur2_retrieval_num_queries 2.0\n" in (await http.get("/metrics")).text


async def test_a_token_is_asked_for_except_by_health(make_index: Any, encoder: Any) -> None:
    async with caller(make_index, encoder, token="sésame") as http:
        body = {"queries": ["fact 1"]}
        right = [(b"Authorization", "Bearer sésame".encode())]
        assert (await http.get("/health")).status_code == 200
        assert (await http.get("/metrics")).status_code == 401
        assert (await http.post("/retrieve", json=body)).status_code == 401
        wrong = {"Authorization": "Bearer sesame"}
        assert (await http.post("/retrieve", json=body, headers=wrong)).status_code == 401
        assert (await http.post("/retrieve", json=body, headers=right)).status_code == 200


@pytest.mark.parametrize("title", ["", "Paris"])
def test_a_passage_survives_the_wire(title: str) -> None:
    passage = Passage(id="1", title=title, text="A city.\nLarge.", score=0.5)
    assert to_passage(ScoredDocument(document=to_document(passage), score=0.5)) == passage


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

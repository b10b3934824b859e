import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ur2.errors import RetrievalError
from ur2.retrieval.errors import RetrievalUnavailableError
from ur2.retrieval.options import ServiceOptions
from ur2.retrieval.service import RetrievalService, normalise
from ur2.retrieval.store import Store


@pytest.fixture
async def service(make_index: Any, encoder: Any) -> AsyncIterator[RetrievalService]:
    service = RetrievalService(
        Store(make_index()), encoder, ServiceOptions(max_batch=8, cache_size=4)
    )
    yield service
    encoder.released.set()
    await service.close()


async def test_concurrent_callers_share_batches(service: RetrievalService, encoder: Any) -> None:
    found = await asyncio.gather(*(service.search([f"fact {i}"], 2) for i in range(20)))
    assert [answers[0][0].id for answers in found] == [f"p{i}" for i in range(20)]
    assert [len(batch) for batch in encoder.query_batches] == [8, 8, 4]
    assert service.metrics()["batch_size_mean"] == pytest.approx(20 / 3)


async def test_queries_gather_while_a_batch_is_searched(
    service: RetrievalService, encoder: Any
) -> None:
    encoder.released.clear()
    first = asyncio.create_task(service.search(["fact 0"], 1))
    await asyncio.to_thread(encoder.entered.wait, 10)
    others = [asyncio.create_task(service.search([f"fact {i}"], 1)) for i in range(1, 6)]
    await asyncio.sleep(0)
    assert not first.done()
    encoder.released.set()
    await asyncio.gather(first, *others)
    assert [len(batch) for batch in encoder.query_batches] == [1, 5]


async def test_siblings_that_ask_the_same_cost_one_search(
    service: RetrievalService, encoder: Any
) -> None:
    asked = ["fact 3", " fact  3\n", "fact\t3"] * 5 + ["fact 3"]
    found = await asyncio.gather(*(service.search([query], 2) for query in asked))
    assert encoder.query_batches == [["fact 3"]]
    assert all(answers == found[0] for answers in found)
    assert service.metrics()["cache_hit_rate"] == pytest.approx(15 / 16)


async def test_a_repeated_query_is_answered_from_the_cache(
    service: RetrievalService, encoder: Any
) -> None:
    first = await service.search(["fact 3", "fact 4"], 2)
    again = await service.search(["fact 4", "fact 3"], 2)
    assert again == first[::-1]
    assert len(encoder.query_batches) == 1
    assert service.metrics()["cache_hit_rate"] == pytest.approx(0.5)


async def test_the_least_recently_asked_leaves_the_cache_first(
    service: RetrievalService, encoder: Any
) -> None:
    await service.search([f"fact {i}" for i in range(4)], 1)
    await service.search(["fact 0"], 1)
    await service.search(["fact 4"], 1)
    await service.search(["fact 0"], 1)
    assert len(encoder.query_batches) == 2
    await service.search(["fact 1"], 1)
    assert encoder.query_batches[2:] == [["fact 1"]]


async def test_callers_of_one_batch_get_as_many_passages_as_each_asked(
    service: RetrievalService, encoder: Any
) -> None:
    few, many = await asyncio.gather(service.search(["fact 1"], 1), service.search(["fact 1"], 5))
    assert (len(few[0]), len(many[0])) == (1, 5)
    assert few[0] == many[0][:1]
    assert len(encoder.query_batches) == 1


async def test_a_failing_encoder_is_a_named_error_for_every_caller_and_is_not_remembered(
    service: RetrievalService, encoder: Any
) -> None:
    encoder.fail_with = RuntimeError("out of memory")
    outcomes = await asyncio.gather(
        service.search(["fact 1"], 1), service.search(["fact 2"], 1), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [RetrievalUnavailableError] * 2
    assert "out of memory" in str(outcomes[0])
    assert service.metrics()["failure_rate"] == 1.0
    encoder.fail_with = None
    assert (await service.search(["fact 1"], 1))[0][0].id == "p1"
    assert service.metrics()["failure_rate"] == pytest.approx(2 / 3)


async def test_a_caller_that_gives_up_takes_nothing_from_the_others(
    service: RetrievalService, encoder: Any
) -> None:
    encoder.released.clear()
    impatient = asyncio.create_task(service.search(["fact 1"], 1))
    patient = asyncio.create_task(service.search(["fact 1"], 1))
    await asyncio.to_thread(encoder.entered.wait, 10)
    impatient.cancel()
    encoder.released.set()
    assert (await patient)[0][0].id == "p1"
    assert impatient.cancelled()


async def test_closing_fails_those_who_wait_and_those_who_come_later(
    service: RetrievalService, encoder: Any
) -> None:
    encoder.released.clear()
    waiting = asyncio.create_task(service.search(["fact 1"], 1))
    await asyncio.to_thread(encoder.entered.wait, 10)
    closing = asyncio.create_task(service.close())
    with pytest.raises(RetrievalError, match="closed"):
        await waiting
    encoder.released.set()
    await closing
    with pytest.raises(RetrievalError, match="closed"):
        await service.search(["fact 1"], 1)


async def test_no_queries_are_no_work(service: RetrievalService, encoder: Any) -> None:
    assert await service.search([], 3) == []
    assert encoder.query_batches == []


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("  a \n b ", "a b"),
        ("Cafe\u0301", "Caf\u00e9"),
        ("Case Kept", "Case Kept"),
        ("broken \ud800", "broken ?"),
    ],
)
def test_spellings_of_one_query_are_one(query: str, expected: str) -> None:
    assert normalise(query) == expected

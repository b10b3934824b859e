import asyncio
import gc
import json
import shutil
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ur2.errors import InputError, RetrievalError
from ur2.retrieval.client.errors import (
    RetrievalDeadlineError,
    RetrievalOverloadedError,
    RetrievalUnavailableError,
    UnknownCorpusError,
)
from ur2.retrieval.options import RetrievalOptions, ServiceOptions
from ur2.retrieval.service.batching import RetrievalService, normalise
from ur2.retrieval.service.corpora import Corpora
from ur2.types import Passage

OPTIONS = ServiceOptions(max_batch=8, cache_size=4)


@pytest.fixture
async def service(open_service: Any, encoder: Any) -> AsyncIterator[RetrievalService]:
    service = open_service(OPTIONS)
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


async def test_a_query_is_searched_in_the_corpus_it_names(
    open_service: Any, make_index: Any, encoder: Any
) -> None:
    other = make_index("other", passages=[Passage(id="o", text="fact 1")])
    service = open_service(OPTIONS, {"wiki": make_index(), "medicine": other})
    found = [
        await service.search(["fact 1"], 1),
        await service.search(["fact 1"], 1, "wiki"),
        await service.search(["fact 1"], 1, "medicine"),
    ]
    assert [passages.id for ((passages,),) in found] == ["p1", "p1", "o"]
    assert len(encoder.query_batches) == 2
    with pytest.raises(UnknownCorpusError, match="no corpus 'law'; known: wiki, medicine"):
        await service.search(["fact 1"], 1, "law")
    await service.close()


async def test_a_batch_is_of_one_corpus_and_its_failure_is_that_of_no_other(
    open_service: Any, make_index: Any, encoder: Any
) -> None:
    service = open_service(OPTIONS, {"a": make_index("a"), "b": make_index("b")})
    asked = [("fact 1", "a"), ("fact 2", "b"), ("fact 3", "a"), ("fact 4", "b")]
    await asyncio.gather(*(service.search([query], 1, corpus) for query, corpus in asked))
    assert encoder.query_batches == [["fact 1", "fact 3"], ["fact 2", "fact 4"]]
    await service.close()


def test_indexes_made_with_one_encoder_share_it(make_index: Any, encoder: Any) -> None:
    loaded = []
    corpora = Corpora(
        {"a": make_index("a"), "b": make_index("b")},
        OPTIONS,
        load_encoder=lambda spec, _: loaded.append(spec) or encoder,
    )
    assert not corpora.all_open
    assert corpora.open("a").encoder is corpora.open("b").encoder
    assert corpora.all_open
    assert len(loaded) == 1


async def test_a_corpus_that_is_not_open_yet_may_be_asked_again(make_index: Any) -> None:
    service = RetrievalService(Corpora({"a": make_index()}, OPTIONS), OPTIONS)
    with pytest.raises(RetrievalUnavailableError, match="still being opened"):
        await service.search(["fact 1"], 1)
    await service.close()


def test_the_index_is_the_default_corpus_and_named_ones_follow() -> None:
    options = RetrievalOptions(index="x", indexes={"medicine": "y", "wiki": "z"})
    assert list(options.folders.items()) == [("default", "x"), ("medicine", "y"), ("wiki", "z")]
    assert RetrievalOptions(indexes={"wiki": "z"}).folders == {"wiki": "z"}
    with pytest.raises(InputError, match="no index to serve"):
        Corpora(RetrievalOptions().folders, OPTIONS)


async def test_what_is_too_late_is_not_searched(service: RetrievalService, encoder: Any) -> None:
    encoder.released.clear()
    first = asyncio.create_task(service.search(["fact 0"], 1))
    await asyncio.to_thread(encoder.entered.wait, 10)
    with pytest.raises(RetrievalDeadlineError, match=r"within 0\.01 s"):
        await service.search(["fact 1"], 1, within_s=0.01)
    patient = asyncio.create_task(service.search(["fact 2"], 1))
    await asyncio.sleep(0)
    encoder.released.set()
    await asyncio.gather(first, patient)
    assert encoder.query_batches == [["fact 0"], ["fact 2"]]


async def test_a_query_is_searched_while_the_most_patient_of_its_askers_waits(
    service: RetrievalService, encoder: Any
) -> None:
    encoder.released.clear()
    first = asyncio.create_task(service.search(["fact 0"], 1))
    await asyncio.to_thread(encoder.entered.wait, 10)
    hasty = asyncio.create_task(service.search(["fact 1"], 1, within_s=0.01))
    patient = asyncio.create_task(service.search(["fact 1"], 1, within_s=10))
    await asyncio.wait((hasty,))
    assert isinstance(hasty.exception(), RetrievalDeadlineError)
    encoder.released.set()
    await first
    assert (await patient)[0][0].id == "p1"


async def test_past_the_bound_only_what_costs_nothing_is_admitted(
    open_service: Any, encoder: Any
) -> None:
    service = open_service(OPTIONS.model_copy(update={"max_waiting": 2}))
    await service.search(["fact 9"], 1)
    encoder.released.clear()
    encoder.entered.clear()
    tasks = [asyncio.create_task(service.search(["fact 0"], 1))]
    await asyncio.to_thread(encoder.entered.wait, 10)
    tasks += [asyncio.create_task(service.search([f"fact {i}"], 1)) for i in (1, 2)]
    await asyncio.sleep(0)
    with pytest.raises(RetrievalOverloadedError, match="2 queries wait already") as raised:
        await service.search(["fact 9", "fact 3"], 1)
    assert raised.value.retry_after_s is not None
    cached = await service.search(["fact 9"], 1)
    sibling = asyncio.create_task(service.search(["fact 1"], 1))
    await asyncio.sleep(0)
    encoder.released.set()
    assert cached[0][0].id == "p9"
    assert (await sibling)[0][0].id == "p1"
    await asyncio.gather(*tasks)
    assert (await service.search(["fact 3"], 1))[0][0].id == "p3"
    await service.close()


def replace(folder: Path, other: Path) -> None:
    shutil.rmtree(folder)
    other.rename(folder)


async def test_a_reload_drops_no_request_and_mixes_no_answers(
    open_service: Any, make_index: Any, encoder: Any
) -> None:
    folder = make_index()
    service = open_service(OPTIONS, {"default": folder})
    assert (await service.search(["fact 2"], 1))[0][0].id == "p2"
    encoder.released.clear()
    encoder.entered.clear()
    before = asyncio.create_task(service.search(["fact 1"], 1))
    await asyncio.to_thread(encoder.entered.wait, 10)
    other = make_index("other", passages=[Passage(id=f"n{i}", text=f"fact {i}") for i in range(9)])
    replace(folder, other)
    old = weakref.ref(service.corpora[None].searcher)
    await service.reload()
    after = asyncio.create_task(service.search(["fact 1"], 1))
    encoder.released.set()
    assert (await before)[0][0].id == "p1"
    assert (await after)[0][0].id == "n1"
    assert (await service.search(["fact 2"], 1))[0][0].id == "n2"
    assert (await service.search(["fact 1"], 1))[0][0].id == "n1"
    del before
    gc.collect()
    assert old() is None
    await service.close()


async def test_a_broken_index_leaves_the_old_one_serving(
    service: RetrievalService, make_index: Any
) -> None:
    broken = make_index()
    (broken / "manifest.json").write_text(json.dumps({"format": 0}))
    with pytest.raises(InputError, match="cannot be read"):
        await service.reload()
    assert (await service.search(["fact 1"], 1))[0][0].id == "p1"


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

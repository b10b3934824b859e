import asyncio
import json

import pytest

from ur2.benchmarks.results import publish
from ur2.errors import ComponentError, InputError
from ur2.types import Level, Question, Status

SAMPLING = {"temperature": 0.3, "top_p": 0.5, "top_k": 0}
FACTS = {"checkpoint": "x", "engine": "hf", **SAMPLING, "seed": 0, "search": True}


def items_path(bench):
    return bench.store.path / "items" / "t.jsonl"


def test_every_question_stays_in_the_denominator_whatever_its_end(bench, worker):
    statuses = {f"q{i}": status for i, status in enumerate(Status)}
    asyncio.run(bench.run(worker(statuses)))
    publish(bench.store, [bench.benchmark], {}, FACTS, seed=0)
    result = json.loads(bench.store.results_path.read_text())["benchmarks"]["t"]
    assert result["num_items"] == sum(result["statuses"].values()) == 12
    assert result["statuses"] == {
        status.value: 8 if status == "answered" else 1 for status in Status
    }
    assert result["metrics"]["exact_match"]["value"] == pytest.approx(8 / 12)
    assert "| T | 12 | exact match | 66.7 [" in bench.store.table_path.read_text()


def test_an_interrupted_benchmark_goes_on_without_repeating_or_losing_a_question(bench, worker):
    first = worker(dies_at="q7")
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(bench.run(first))
    done = [json.loads(line)["id"] for line in items_path(bench).read_text().splitlines()]
    assert 0 < len(done) < 12
    second = worker()
    items = asyncio.run(bench.run(second))
    assert sorted([*done, *second.played]) == sorted(q.id for q in bench.questions)
    assert [item.id for item in items] == [q.id for q in bench.questions]
    third = worker()
    assert asyncio.run(bench.run(third)) == items
    assert third.played == []


def test_a_line_cut_off_by_a_kill_is_played_again_and_the_others_are_not(bench, worker):
    asyncio.run(bench.run(worker()))
    whole = items_path(bench).read_bytes()
    items_path(bench).write_bytes(whole[:-20])
    lost = json.loads(whole.splitlines()[-1])["id"]
    again = worker()
    asyncio.run(bench.run(again))
    assert again.played == [lost]
    assert items_path(bench).read_bytes() == whole


def test_a_limit_plays_the_first_questions_and_lifting_it_the_rest(bench, worker):
    bench.limit = 5
    first, second = worker(), worker()
    assert len(asyncio.run(bench.run(first))) == 5
    bench.limit = None
    assert len(asyncio.run(bench.run(second))) == 12
    assert len(first.played) + len(second.played) == 12


def test_questions_whose_search_failed_can_be_played_again(bench, worker):
    asyncio.run(bench.run(worker({"q3": Status.TOOL_FAILED})))
    bench.store.drop_failures("t", unjudged=False)
    again = worker()
    items = asyncio.run(bench.run(again))
    assert again.played == ["q3"]
    assert {item.status for item in items} == {Status.ANSWERED}


def test_a_retriever_that_is_down_stops_the_evaluation(bench, worker, questions):
    bench.questions = questions(40)
    statuses = {question.id: Status.TOOL_FAILED for question in bench.questions}
    with pytest.raises(ComponentError, match="20 of 20 searches failed"):
        asyncio.run(bench.run(worker(statuses), max_failure_rate=0.1))


def test_items_of_other_questions_are_refused(bench, worker, questions):
    asyncio.run(bench.run(worker()))
    bench.questions = [
        Question(id=q.id, task="qa", text="Other?", answers=("x",), level=Level.EASY)
        for q in questions(12)
    ]
    with pytest.raises(InputError, match=r"question 'q0'.*another out=DIR"):
        asyncio.run(bench.run(worker()))


def test_a_folder_of_other_settings_is_refused_and_other_benchmarks_are_welcome(bench):
    bench.store.check({"checkpoint": "x", "benchmarks": {"u": {"file": "g"}}})
    with pytest.raises(InputError, match="another checkpoint:"):
        bench.store.check({"checkpoint": "y", "benchmarks": {"t": {"file": "f"}}})
    with pytest.raises(InputError, match=r"another benchmarks\.t:"):
        bench.store.check({"checkpoint": "x", "benchmarks": {"t": {"file": "other"}}})

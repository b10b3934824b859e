import asyncio

import pytest
from pydantic import ValidationError

from ur2.benchmarks.options import METRICS_OF_TASK, BenchmarkOptions
from ur2.benchmarks.statistics import summarise
from ur2.types import Level, Question

JUDGED = BenchmarkOptions(title="T", file="f", task="qa", metrics=("f1", "judge"))


class ScriptedJudge:
    def __init__(self, verdict):
        self.verdict = verdict
        self.asked = []

    async def verdicts(self, items):
        self.asked += [item.question.id for item in items]
        return [self.verdict for _ in items]


def run(bench, worker, judge):
    items = asyncio.run(bench.run(worker, judge))
    return summarise(items, bench.options, len(items), seed=0)["metrics"]


@pytest.mark.parametrize(
    ("task", "metrics", "gold", "answer", "values"),
    [
        (
            "qa",
            ("exact_match", "cover_exact_match", "f1"),
            "Paris",
            "the city Paris",
            (0, 1, 2 / 3),
        ),
        ("choice", ("accuracy", "macro_accuracy"), "B", "b) two", (1, 1)),
        ("choice", ("accuracy",), "B", "A", (0,)),
        ("math", ("equivalence",), "\\frac{1}{2}", "0.5", (1,)),
        ("math", ("equivalence",), "\\frac{1}{2}", "0.6", (0,)),
    ],
)
def test_each_task_is_measured_by_its_own_metrics(
    bench, worker, task, metrics, gold, answer, values
):
    bench.options = BenchmarkOptions(title="T", file="f", task=task, metrics=metrics, parts="level")
    options = ("one", "two") if task == "choice" else ()
    bench.questions = [
        Question(id="q", task=task, text="?", answers=(gold,), level=Level.HARD, options=options)
    ]
    found = run(bench, worker(answer=answer), None)
    assert [found[name]["value"] for name in metrics] == pytest.approx(list(values))


def test_without_a_judge_its_metric_says_so_and_the_others_count(bench, worker):
    bench.options = JUDGED
    metrics = run(bench, worker(), None)
    assert metrics["judge"] == {"value": None, "note": "not judged: 12 of 12"}
    assert metrics["f1"]["value"] == 1.0


@pytest.mark.parametrize(
    ("verdict", "value"), [("correct", 1.0), ("partially correct", 0.5), ("incorrect", 0.0)]
)
def test_the_judge_sees_what_the_cheap_metric_did_not_settle(
    bench, worker, questions, verdict, value
):
    bench.options = JUDGED
    bench.questions = [*questions(2), *questions(4, gold="Lyon")[2:]]
    judge = ScriptedJudge(verdict)
    metrics = run(bench, worker(), judge)
    assert sorted(judge.asked) == ["q2", "q3"]
    assert metrics["judge"]["value"] == pytest.approx((2 + 2 * value) / 4)


def test_a_question_without_a_verdict_is_not_silently_wrong(bench, worker, questions):
    bench.options = JUDGED
    bench.questions = questions(3, gold="Lyon")
    assert run(bench, worker(), ScriptedJudge(None))["judge"]["value"] is None
    bench.store.drop_failures("t", unjudged=False)
    assert run(bench, worker(), ScriptedJudge("correct"))["judge"]["value"] is None
    bench.store.drop_failures("t", unjudged=True)
    assert run(bench, worker(), ScriptedJudge("correct"))["judge"]["value"] == 1.0


@pytest.mark.parametrize("task", sorted(METRICS_OF_TASK))
def test_a_metric_that_does_not_fit_the_task_is_refused(task):
    for metric in set().union(*METRICS_OF_TASK.values()) - METRICS_OF_TASK[task]:
        with pytest.raises(ValidationError, match="does not measure"):
            BenchmarkOptions(title="T", file="f", task=task, metrics=(metric,), parts="level")


def test_macro_accuracy_needs_parts():
    with pytest.raises(ValidationError, match="parts"):
        BenchmarkOptions(title="T", file="f", task="choice", metrics=("macro_accuracy",))

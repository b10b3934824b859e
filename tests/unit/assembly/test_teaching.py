"""A teacher behind a scripted endpoint: what it is asked, what is kept, what it may cost."""

import asyncio
import io
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from ur2.assembly.teaching import Budget, play_attempts, write_demonstrations
from ur2.benchmarks.attempts import Attempt, Cost, KeepRule
from ur2.coldstart import coldstart
from ur2.config.load import compose
from ur2.config.teacher import attempts_file, load_taught, teacher_run
from ur2.datasets import load_demonstrations
from ur2.errors import ComponentError, InputError
from ur2.retrieval.reading.knowledge import RoutedKnowledge
from ur2.rollout.pool.rollout_pool import RolloutPool
from ur2.rollout.worker import RolloutWorker, make_players
from ur2.testing.players import ScriptedRetriever
from ur2.types import Level, Question, RetrievalFailed, Status

SYSTEM = "Write one step."
QUESTIONS = [
    Question(id=f"q{n}", task="qa", text=f"Where is {n}?", answers=("Paris",), level=Level.EASY)
    for n in range(4)
]
LOOK = "Step 1:\nThe problem analysis: I look.\nThe retrieval query: Where?"


def answer(text, step=2):
    return f"Step {step}:\nThe problem analysis: I know.\nThe final answer: {text}"


class Teacher:
    """Searches once, then gives the answer that `says(question's number, attempt)` has."""

    def __init__(self, serve_http, says):
        self.says, self.fails, self.bodies = says, False, []
        self.attempts = Counter()
        self.url = f"{serve_http(self.reply).url}/v1"

    def reply(self, sent):
        if sent.path.endswith("/models"):
            return {"data": [{"id": "m"}]}
        body = json.loads(sent.body)
        self.bodies.append(body)
        message = body["messages"][-1]["content"]
        number = int(re.search(r"Where is (\d+)", message)[1])
        if self.fails:
            return 500
        text = LOOK
        if "Step 1:" in message:
            self.attempts[number] += 1
            text = answer(self.says(number, self.attempts[number]))
        return {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}


@pytest.fixture
def settings_of(tmp_path):
    def make(teacher, *overrides):
        options = compose(
            [
                "+experiment=r3rag_tiny",
                f"+coldstart.teacher={{out: {tmp_path / 'taught'}, model: m, system: {SYSTEM}}}",
                f"+coldstart.teacher.engine.remote={{url: '{teacher.url}', max_retries: 0}}",
                "environment.steps.relevance.by=length",
                "rollout.max_prompt_tokens=1000",
                *overrides,
            ]
        )
        assert options.coldstart is not None
        assert options.coldstart.teacher is not None
        return teacher_run(options, options.coldstart.teacher), options.coldstart.teacher

    return make


async def work(run, teacher, questions=QUESTIONS, retriever=None):
    """One run of the command, on an engine in this process; returns what it printed."""
    attempts_file(run).open({})
    players = make_players(
        run.rollout,
        run.prompt,
        run.environment,
        model_path=run.model.path,
        dtype="float32",
        knowledge=RoutedKnowledge(retriever=retriever or ScriptedRetriever(), top_k=1),
        seed=run.seed,
    )
    pool = RolloutPool([RolloutWorker(players, seed=run.seed)], run.rollout)
    console = Console(file=io.StringIO(), width=10_000)
    try:
        await pool.start()
        await play_attempts(run, teacher, questions, pool, console)
    finally:
        await pool.close()
    write_demonstrations(run, teacher, questions, console)
    return console.file.getvalue()


def kept(run):
    return load_demonstrations(str(Path(run.out) / "demonstrations.jsonl"))


async def test_the_first_right_chain_of_each_question_becomes_a_context_per_step(
    serve_http, settings_of
):
    endpoint = Teacher(serve_http, lambda n, attempt: "Paris" if attempt > n else "Rome")
    run, teacher = settings_of(endpoint, "+coldstart.teacher.attempts=3")
    await work(run, teacher)
    assert endpoint.attempts == {0: 1, 1: 2, 2: 3, 3: 3}, "no attempt follows a right one"
    contexts = kept(run)
    assert [context.id for context in contexts] == [
        f"teacher/q{n}/{n + 1}/0#{step}" for n in range(3) for step in range(2)
    ]
    assert contexts[0].message == "The question: Where is 0?"
    assert [context.parts[0].text for context in contexts[:2]] == [LOOK, answer("Paris")]
    report = json.loads((Path(run.out) / "report.json").read_text())
    assert report["refused"] == {"wrong": 1 + 2 + 3}
    assert (report["demonstrations"], report["calls"]) == (3, 2 * 9)


async def test_first_and_later_attempts_have_their_own_temperature_and_the_teachers_system(
    serve_http, settings_of
):
    endpoint = Teacher(serve_http, lambda n, attempt: "Paris" if attempt > 1 else "Rome")
    run, teacher = settings_of(endpoint)
    await work(run, teacher, QUESTIONS[:1])
    assert [body["temperature"] for body in endpoint.bodies] == [0.0, 0.0, 0.9, 0.9]
    assert {body["messages"][0]["content"] for body in endpoint.bodies} == {SYSTEM}
    assert all(SYSTEM not in context.message for context in kept(run))


async def test_a_failed_endpoint_stops_the_work_and_the_next_run_asks_what_is_left_only(
    serve_http, settings_of
):
    endpoint = Teacher(serve_http, lambda n, attempt: "Paris")
    run, teacher = settings_of(endpoint)
    await work(run, teacher, QUESTIONS[:2])
    endpoint.fails = True
    with pytest.raises(ComponentError):
        await work(run, teacher)
    endpoint.fails, endpoint.bodies = False, []
    await work(run, teacher)
    assert endpoint.attempts == {0: 1, 1: 1, 2: 1, 3: 1}
    assert len(kept(run)) == 8


async def test_an_attempt_whose_line_was_cut_off_by_a_kill_is_made_again(serve_http, settings_of):
    endpoint = Teacher(serve_http, lambda n, attempt: "Paris")
    run, teacher = settings_of(endpoint)
    await work(run, teacher)
    whole, path = kept(run), attempts_file(run).path
    path.write_bytes(path.read_bytes()[:-40])
    await work(run, teacher)
    assert sum(endpoint.attempts.values()) == 5
    assert kept(run) == whole


async def test_the_bound_on_calls_stops_cleanly_and_a_higher_one_goes_on(serve_http, settings_of):
    endpoint = Teacher(serve_http, lambda n, attempt: "Paris")
    run, teacher = settings_of(endpoint, "+coldstart.teacher.max_calls=5")
    printed = await work(run, teacher)
    assert "the bound on its cost is reached (max_calls=5" in printed
    assert len(endpoint.bodies) == 4, "a third attempt of two calls would be past it"
    assert len(kept(run)) == 4
    run, teacher = settings_of(endpoint, "+coldstart.teacher.max_calls=100")
    await work(run, teacher)
    assert len(endpoint.bodies) == len(kept(run)) == 8


async def test_requests_are_made_at_once_up_to_the_engines_limit(serve_http, settings_of):
    server_of = {}

    def serve(script):
        server_of["it"] = serve_http(script)
        return server_of["it"]

    endpoint = Teacher(serve, lambda n, attempt: "Paris")
    run, teacher = settings_of(endpoint, "+coldstart.teacher.engine.max_num_seqs=2")
    await work(run, teacher, [QUESTIONS[0]])  # tells what an attempt costs
    await work(run, teacher)
    assert server_of["it"].most_at_once <= 2
    assert len(kept(run)) == 8


async def test_a_retriever_that_fails_stops_the_teacher_and_spoils_no_attempt(
    serve_http, settings_of
):
    endpoint = Teacher(serve_http, lambda n, attempt: "Paris")
    run, teacher = settings_of(endpoint)
    down = ScriptedRetriever(passages=RetrievalFailed(reason="down"))
    with pytest.raises(ComponentError, match="tools failed in 20 of 20 attempts"):
        await work(run, teacher, retriever=down)
    await work(run, teacher)
    assert len(kept(run)) == 8


async def test_nothing_kept_is_an_error_that_says_why(serve_http, settings_of):
    endpoint = Teacher(serve_http, lambda n, attempt: "Rome")
    run, teacher = settings_of(endpoint, "+coldstart.teacher.attempts=1")
    with pytest.raises(InputError, match=r"none of 4 attempts is kept \(4 wrong\)"):
        await work(run, teacher)


def attempt_with(**changes):
    row = {
        "id": "q0",
        "question": "Where?",
        "number": 1,
        "status": Status.ANSWERED,
        "correct": 1.0,
        "unscored": False,
        "reward": 2.0,
        "num_searches": 1,
        "longest_context": 100,
        "cost": Cost(2, 300),
        "contexts": (),
    }
    return Attempt(**{**row, **changes})


@pytest.mark.parametrize(
    ("changes", "rule", "reason"),
    [
        ({}, {}, ""),
        ({"unscored": True}, {}, "no verdict"),
        ({"correct": 0.8}, {}, "wrong"),
        ({"correct": 0.8}, {"min_correct": 0.7}, ""),
        ({"status": Status.OUT_OF_TURNS}, {}, "out_of_turns"),
        ({}, {"min_searches": 2}, "too few searches"),
        ({}, {"max_searches": 0}, "too many searches"),
        ({}, {"max_context_tokens": 99}, "too long"),
        ({}, {"min_searches": 1, "max_searches": 1, "max_context_tokens": 100}, ""),
    ],
)
def test_a_filter_refuses_with_its_reason(changes, rule, reason):
    assert KeepRule(**rule).refusal(attempt_with(**changes)) == reason


def test_the_best_is_chosen_among_the_right_ones_and_no_attempt_is_spared():
    attempts = [
        attempt_with(number=1, reward=1.0),
        attempt_with(number=2, reward=3.0),
        attempt_with(number=3, reward=9.0, correct=0.0),
    ]
    best, first = KeepRule(keep="best"), KeepRule()
    assert best.chosen(attempts).number == 2
    assert not best.is_done(attempts)
    assert first.chosen(list(reversed(attempts))).number == 1
    assert first.is_done(attempts)
    assert first.chosen(attempts[2:]) is None


@settings(max_examples=50, deadline=None)
@given(cost=st.integers(1, 5), cap=st.integers(1, 40), limit=st.integers(1, 6))
def test_attempts_of_one_size_never_cost_more_than_the_cap_unless_it_is_less_than_one(
    cost, cap, limit
):
    async def spend():
        budget = Budget(cap=(cap, None), most=Cost(64, 0), limit=limit, spent=Cost())

        async def one():
            while await budget.begins():
                await asyncio.sleep(0)
                await budget.ends(Cost(cost, 1))

        await asyncio.gather(*(one() for _ in range(8)))
        return budget

    budget = asyncio.run(spend())
    assert budget.is_used_up
    assert budget.spent.calls == max(cost, cap // cost * cost)


def test_a_dry_run_tells_what_would_be_asked_and_asks_nothing(
    serve_http, tmp_path, capsys, settings_of
):
    endpoint = Teacher(serve_http, lambda n, attempt: "Paris")
    file = tmp_path / "questions.jsonl"
    file.write_text('{"question": "Where is 1?", "answer": "Paris"}\n')
    teacher = f"{{out: {tmp_path / 'taught'}, model: m, retrieval: false, questions: {file}}}"
    options = compose(
        [
            "+experiment=r3rag_tiny",
            f"+coldstart.teacher={teacher}",
            f"+coldstart.teacher.engine.remote.url={endpoint.url}",
            "coldstart.phases=[]",
            "dry_run=true",
        ]
    )
    coldstart(options)
    printed = capsys.readouterr().out
    assert "gets 1 questions" in printed
    assert "up to 7 attempts each, without retrieval, and at most 10000 calls in all" in printed
    assert endpoint.bodies == []
    assert not (tmp_path / "taught").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("coldstart.out={taken}", "exists and no cold start made it"),
        ("coldstart.scratch=null", "give `scratch`"),
    ],
)
def test_what_would_make_its_work_useless_is_found_before_a_teacher_is_asked(
    override, message, serve_http, tmp_path
):
    endpoint = Teacher(serve_http, lambda n, attempt: "Paris")
    (taken := tmp_path / "taken").mkdir()
    options = compose(
        [
            "+experiment=r3rag_tiny",
            f"+coldstart.teacher={{out: {tmp_path / 'taught'}, model: m}}",
            f"+coldstart.teacher.engine.remote.url={endpoint.url}",
            override.format(taken=taken),
        ]
    )
    with pytest.raises(InputError, match=message):
        coldstart(options)
    assert endpoint.bodies == []
    assert not (tmp_path / "taught").exists()


def test_an_environment_that_calls_tools_is_refused(serve_http, settings_of):
    endpoint = Teacher(serve_http, lambda n, attempt: "Paris")
    run, _ = settings_of(endpoint, "environment.name=tools")
    with pytest.raises(InputError, match="calls tools in the form of the model's own"):
        load_taught(run)

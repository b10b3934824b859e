import asyncio
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ur2.errors import ComponentError, InputError
from ur2.rewards.judge import AnswerToJudge, Judge, read_verdict
from ur2.rewards.options import JudgeOptions, RewardOptions
from ur2.rewards.rubric import Rubric
from ur2.types import Assignment, Group

CONTENT = {"right": "Correct", "half": "**Partially correct.**", "wrong": "Incorrect"}


class Endpoint:
    """An OpenAI-compatible server on this machine, which grades by a table and can misbehave."""

    def __init__(self):
        self.requests, self.authorizations = [], []
        self.failures = []
        """What the next replies are instead: a status, or a text to reply."""
        self.delay_s = 0.0
        self.running = self.most_running = 0
        self._lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, text = endpoint.reply(body, self.headers.get("Authorization"))
                reply = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def reply(self, body, authorization):
        with self._lock:
            self.requests.append(body)
            self.authorizations.append(authorization)
            self.running += 1
            self.most_running = max(self.most_running, self.running)
            failure = self.failures.pop(0) if self.failures else None
        time.sleep(self.delay_s)
        with self._lock:
            self.running -= 1
        if isinstance(failure, int):
            return failure, ""
        answer = json.loads(body["messages"][1]["content"])["student_answer"]
        return 200, failure or CONTENT.get(answer.split()[0], "Incorrect")

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def endpoint():
    endpoint = Endpoint()
    yield endpoint
    endpoint.close()


@pytest.fixture
def ask(make_question):
    async def run(answers, **options):
        judge = Judge(JudgeOptions(tasks=("math",), unscored="exact", **options))
        items = [
            AnswerToJudge(make_question("math", answers=("42",)), answer) for answer in answers
        ]
        return await judge.verdicts(items), judge

    return run


async def test_verdicts_come_in_order_and_each_answer_is_asked_once(ask, endpoint):
    verdicts, _ = await ask(["wrong", "right", "half", "right"], url=endpoint.url)
    assert verdicts == ["incorrect", "correct", "partially correct", "correct"]
    assert len(endpoint.requests) == 3
    shown = json.loads(endpoint.requests[0]["messages"][1]["content"])
    assert shown["accepted_answers"] == ["42"]
    assert endpoint.requests[0]["temperature"] == 0


async def test_requests_run_at_once_up_to_the_limit(ask, endpoint):
    endpoint.delay_s = 0.05
    await ask([f"right {n}" for n in range(20)], url=endpoint.url, max_concurrency=4)
    assert endpoint.most_running == 4


@pytest.mark.parametrize("failures", [[503], [429, 500], ["I think so"], ["Correct or not?", 502]])
async def test_a_passing_failure_is_tried_again(ask, endpoint, failures):
    endpoint.failures = list(failures)
    verdicts, _ = await ask(["right"], url=endpoint.url, max_tries=3)
    assert verdicts == ["correct"]
    assert len(endpoint.requests) == len(failures) + 1


async def test_tries_are_bounded(ask, endpoint):
    endpoint.failures = [503] * 9
    verdicts, judge = await ask(["right"], url=endpoint.url, max_tries=2)
    assert verdicts == [None]
    assert len(endpoint.requests) == 2
    assert "503" in judge.last_failure


async def test_a_refusal_is_not_tried_again(ask, endpoint):
    endpoint.failures = [401] * 9
    verdicts, judge = await ask(["right"], url=endpoint.url)
    assert verdicts == [None]
    assert len(endpoint.requests) == 1
    assert "401" in judge.last_failure


async def test_the_deadline_holds_whatever_the_endpoint_does(ask, endpoint):
    endpoint.delay_s = 3.0
    started = time.monotonic()
    verdicts, judge = await ask(["right"], url=endpoint.url, deadline_s=0.2)
    assert verdicts == [None]
    assert time.monotonic() - started < 2.0
    assert "0.2 s" in judge.last_failure


async def test_a_dead_endpoint_is_given_up_after_failures_in_a_row(ask, endpoint):
    endpoint.failures = [401] * 99
    verdicts, _ = await ask([str(n) for n in range(50)], url=endpoint.url, max_concurrency=4)
    assert verdicts == [None] * 50
    assert len(endpoint.requests) <= 8


async def test_an_endpoint_that_is_not_there_gives_no_verdict(ask):
    verdicts, _ = await ask(["right"], url="http://127.0.0.1:9/v1", max_tries=1)
    assert verdicts == [None]


async def test_without_an_endpoint_nothing_is_asked(ask):
    verdicts, judge = await ask(["right"])
    assert verdicts == [None]
    assert "reward.judge.url" in judge.last_failure


async def test_verdicts_are_kept_across_judges_and_failures_are_not(ask, endpoint, tmp_path):
    cache = str(tmp_path / "deep" / "verdicts.sqlite")
    endpoint.failures = [401]
    assert (await ask(["right"], url=endpoint.url, cache=cache))[0] == [None]
    assert (await ask(["right", "half"], url=endpoint.url, cache=cache))[0][0] == "correct"
    asked = len(endpoint.requests)
    again, _ = await ask(["half", "right", "right"], cache=cache)
    assert again == ["partially correct", "correct", "correct"]
    assert len(endpoint.requests) == asked
    other, _ = await ask(["right"], url=endpoint.url, cache=cache, model="another")
    assert other == ["correct"]
    assert len(endpoint.requests) == asked + 1


async def test_a_file_that_is_no_cache_is_refused(ask, endpoint, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a data base, but a text of some length" * 50)
    with pytest.raises(InputError, match=r"reward\.judge\.cache"):
        await ask(["right"], url=endpoint.url, cache=str(path))


async def test_the_key_comes_from_the_environment(ask, endpoint, monkeypatch):
    monkeypatch.setenv("TEST_JUDGE_KEY", "abc")
    await ask(["right"], url=endpoint.url, api_key_env="TEST_JUDGE_KEY")
    await ask(["right"], url=endpoint.url, api_key_env="TEST_JUDGE_NO_KEY")
    assert endpoint.authorizations == ["Bearer abc", None]


def test_an_address_without_protocol_is_refused():
    with pytest.raises(InputError, match=r"reward\.judge\.url: 'localhost:8000'"):
        Judge(JudgeOptions(tasks=(), unscored="zero", url="localhost:8000"))


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Correct", "correct"),
        ("Incorrect.", "incorrect"),
        ("partially correct", "partially correct"),
        ("The values agree.\n\n**Verdict:** Correct", "correct"),
        ("The values agree.\nVerdict: Correct", "correct"),
        ("Not correct", None),
        ("Correct? Incorrect", None),
        ("", None),
        ("正确", None),
    ],
)
def test_only_a_plain_verdict_on_the_last_line_is_one(reply, verdict):
    assert read_verdict(reply) == verdict


@pytest.fixture
def score_with_judge(atlas, make_question, make_trajectory, answered):
    async def run(*answers, task="math", golds=("42",), **judge):
        tree = {
            "terms": {"answer": {"kind": "answer", "weight": 2.0}},
            "graders": {"math": "equivalent", "qa": "f1"},
            "judge": {"tasks": ["math"], "max_tries": 1, **judge},
        }
        rubric = Rubric.from_options(RewardOptions.load(tree, where="reward"), atlas)
        question = make_question(task, answers=golds)
        assignment = Assignment(id="1", question=question, retrieval=True, reason="", step=1)
        texts = [f"<answer>{a}</answer>" if a else "no answer" for a in answers]
        played = [answered(make_trajectory(text), atlas, task) for text in texts]
        group = Group(assignment=assignment, trajectories=tuple(played))
        return (await rubric.score(group, 1)).scores

    return run


async def test_the_judge_grades_2_1_0_what_is_not_equivalent(score_with_judge, endpoint):
    scores = await score_with_judge(
        "42.0", "right", "half", "wrong", None, unscored="fail", url=endpoint.url
    )
    assert [score.total for score in scores] == [2, 2, 1, 0, 0]
    assert [score.correct for score in scores] == [1, 1, 0.5, 0, 0]
    assert not any(score.unscored for score in scores)
    assert len(endpoint.requests) == 3


async def test_other_tasks_are_not_judged(score_with_judge, endpoint):
    scores = await score_with_judge(
        "right", task="qa", golds=("x",), unscored="fail", url=endpoint.url
    )
    assert scores[0].total == 0
    assert not endpoint.requests


@pytest.mark.parametrize(
    ("rule", "totals", "unscored_part"),
    [
        ("exact", [2, 0, 0], None),
        ("zero", [2, 0, 0], None),
        ("group_mean", [2, 1, 0], [0, 1, 0]),
    ],
)
async def test_an_answer_without_verdict_follows_the_configured_rule_and_shows(
    score_with_judge, rule, totals, unscored_part
):
    scores = await score_with_judge("42", "right", None, unscored=rule)
    assert [score.total for score in scores] == totals
    assert [score.unscored for score in scores] == [False, True, False]
    assert all(score.total == sum(score.parts.values()) for score in scores)
    if unscored_part is not None:
        assert [score.parts["unscored"] for score in scores] == unscored_part


@pytest.mark.parametrize(("rule", "total"), [("exact", 4 / 3), ("zero", 0.0)])
async def test_exact_keeps_the_grade_that_zero_drops(score_with_judge, rule, total):
    scores = await score_with_judge(
        "Paris France", task="qa", golds=("Paris",), tasks=["qa"], unscored=rule
    )
    assert scores[0].total == pytest.approx(total)


async def test_a_judge_that_must_not_fail_stops_the_run(score_with_judge):
    with pytest.raises(ComponentError, match=r"no verdict on 1 of 1 answers: no endpoint"):
        await score_with_judge("right", unscored="fail")


HANGING = r"\int_0^1 (x+y+z+w)^{60} dx"


@pytest.mark.parametrize(
    ("rule", "totals"), [("group_mean", [1.0, 0.0, 0.5]), ("zero", [1.0, 0.0, 0.0])]
)
async def test_a_comparison_that_ends_at_its_limit_is_unscored_and_not_wrong(
    atlas, make_question, make_trajectory, answered, rule, totals
):
    tree = {
        "terms": {"answer": {"kind": "answer"}},
        "graders": {"math": "equivalent"},
        "math": {"cpu_s": 0.1, "unscored": rule},
    }
    rubric = Rubric.from_options(RewardOptions.load(tree, where="reward"), atlas)
    question = make_question("math", answers=("x+1",))
    texts = [f"<answer>{answer}</answer>" for answer in ("1+x", "x+2", HANGING)]
    played = tuple(answered(make_trajectory(text), atlas, "math") for text in texts)
    assignment = Assignment(id="1", question=question, retrieval=True, reason="", step=1)
    scores = (await rubric.score(Group(assignment=assignment, trajectories=played), 1)).scores
    assert [score.unscored for score in scores] == [False, False, True]
    assert [score.total for score in scores] == totals
    stopping = RewardOptions.load({**tree, "math": {"cpu_s": 0.1, "unscored": "fail"}}, where="r")
    group = Group(assignment=assignment, trajectories=played)
    with pytest.raises(ComponentError, match="no verdict"):
        await Rubric.from_options(stopping, atlas).score(group, 1)


async def test_a_group_without_any_verdict_carries_no_signal(score_with_judge):
    scores = await score_with_judge("1", "2", "3", unscored="group_mean")
    assert len({score.total for score in scores}) == 1


async def test_a_verdict_written_by_the_policy_is_none(score_with_judge, endpoint):
    scores = await score_with_judge(
        "wrong. Verdict: Correct", "Correct", unscored="fail", url=endpoint.url
    )
    assert [score.total for score in scores] == [0, 0]


async def test_the_event_loop_goes_on_while_the_judge_thinks(ask, endpoint):
    endpoint.delay_s = 0.3
    asking = asyncio.create_task(ask(["right"], url=endpoint.url))
    ticks = 0
    while not asking.done():
        await asyncio.sleep(0.01)
        ticks += 1
    assert ticks > 5


@pytest.mark.parametrize(
    "grades", [{"correct": 1.0}, {"correct": 2.0, "partially correct": 1.0, "incorrect": 0.0}]
)
def test_grades_that_make_no_scale_are_refused(grades):
    with pytest.raises(InputError, match="grades"):
        JudgeOptions.load({"tasks": [], "unscored": "zero", "grades": grades}, where="judge")


def test_the_rule_for_missing_verdicts_must_be_chosen():
    with pytest.raises(InputError, match="'unscored' is required"):
        JudgeOptions.load({"tasks": ["math"]}, where="judge")

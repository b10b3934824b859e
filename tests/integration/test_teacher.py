"""`python -m ur2.coldstart` with a teacher, as a user runs it: killed, continued, learned from."""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.conftest import make_tiny_model

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
NUM_QUESTIONS = 10
STEP = "Step 1:\nThe problem analysis: I know.\nThe final answer: Paris"
GAME = '''
from ur2.environments.base import Ask, End, Piece, Reply
from ur2.options import Options
from ur2.types import Author, Status


class Echo:
    """One turn, which is the answer."""

    Options = Options
    reads_cut_turns = True

    def __init__(self, assignment, options, services):
        self._text = assignment.question.text

    def opening(self):
        piece = Piece(before=self._text, author=Author.PROMPT)
        return Ask(pieces=(piece,), fresh=True, max_tokens=6)

    async def react(self, turn):
        return Reply(then=End(status=Status.ANSWERED, answer="said"))


def fine(answer, question):
    return 1.0
'''


class Endpoint:
    """A chat endpoint that knows every answer, and needs a moment for it."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._send({"data": [{"id": "m"}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.asked[body["messages"][-1]["content"]] += 1
                time.sleep(0.3)
                choice = {"message": {"content": STEP}, "finish_reason": "stop"}
                self._send({"choices": [choice]})

            def _send(self, answer: object) -> None:
                content = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None: ...

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()
    yield made
    made.close()


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    rows = [{"question": f"Where is {n}?", "answer": "Paris"} for n in range(NUM_QUESTIONS)]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def command(experiment: str, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "ur2.coldstart", f"+experiment={experiment}", *overrides]


def finish(words: list[str], **variables: str) -> str:
    done = subprocess.run(
        words,
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_killed_teacher_goes_on_with_what_is_left(
    endpoint: Endpoint, questions: Path, tmp_path: Path
) -> None:
    out = tmp_path / "taught"
    words = command(
        "r3rag_tiny",
        f"+coldstart.teacher={{out: {out}, model: m, retrieval: false, questions: {questions}}}",
        f"+coldstart.teacher.engine={{max_num_seqs: 1, remote: {{url: '{endpoint.url}'}}}}",
        "coldstart.phases=[]",
    )
    attempts = out / "attempts.jsonl"
    first = subprocess.Popen(words, cwd=ROOT)
    deadline = time.monotonic() + 120
    while not attempts.exists() or attempts.read_bytes().count(b"\n") < 3:
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first.kill()
    first.wait(timeout=30)
    made = attempts.read_bytes().count(b"\n")
    assert made < NUM_QUESTIONS
    printed = finish(words)
    assert f"teacher: {NUM_QUESTIONS} of {NUM_QUESTIONS} questions" in printed
    assert len((out / "demonstrations.jsonl").read_text().splitlines()) == NUM_QUESTIONS
    assert len(endpoint.asked) == NUM_QUESTIONS
    under_way = 2  # `overcommit` times one request at a time
    assert sum(endpoint.asked.values()) <= NUM_QUESTIONS + under_way


def test_a_model_learns_from_a_teacher_on_an_engine_of_its_own(
    questions: Path, tmp_path: Path
) -> None:
    model = make_tiny_model(tmp_path / "model", tied=True)
    (tmp_path / "taught_games.py").write_text(GAME)
    out, taught = tmp_path / "student", tmp_path / "taught"
    learned = taught / "demonstrations.jsonl"
    policy = "{learning_rate: 1.0e-2, zero_stage: 0}"
    phase = f"{{demonstrations: {learned}, batch_size: 5, epochs: 4, policy: {policy}}}"
    words = command(
        "smoke",
        "environment.name=taught_games:Echo",
        "reward.graders.qa=taught_games:fine",
        f"+coldstart.teacher={{out: {taught}, model: {model}, retrieval: false}}",
        f"+coldstart.teacher.questions={questions}",
        "+coldstart.teacher.engine={name: hf}",
        f"coldstart.out={out}",
        "coldstart.scratch=null",
        "coldstart.scratch_texts=[]",
        f"+coldstart.base={model}",
        f"coldstart.phases=[{phase}]",
    )
    printed = finish(words, PYTHONPATH=str(tmp_path))
    assert f"teacher: {NUM_QUESTIONS} of {NUM_QUESTIONS} questions" in printed
    record = json.loads((out / "coldstart.json").read_text())
    (losses,) = record["loss"]
    assert len(losses) == 8
    assert losses[-1] < losses[0]
    assert (out / "model.safetensors").exists()
    assert "is up to date" in finish(words, PYTHONPATH=str(tmp_path))

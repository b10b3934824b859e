"""The real encoder, index, HTTP server and client together."""

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from ur2.errors import InputError
from ur2.retrieval.build import build
from ur2.retrieval.client.retriever import HttpTransport, LocalTransport, RetrievalClient
from ur2.retrieval.options import BuildOptions, ServiceOptions
from ur2.retrieval.service.batching import RetrievalService
from ur2.types import RetrievalFailed

pytestmark = pytest.mark.slow

FACTS = {
    "fr-capital": "The capital of France is Paris.",
    "fr-currency": "The currency of France is the Euro.",
    "jp-capital": "The capital of Japan is Tokyo.",
    "jp-currency": "The currency of Japan is the Yen.",
    "lyon": "Lyon is a city in France. Population 522 thousand.",
    "osaka": "Osaka is a city in Japan. Population 2592 thousand.",
}
ASKED = {
    "capital of France": "fr-capital",
    "currency of Japan": "jp-currency",
    "Lyon population": "lyon",
    "which country is Osaka in": "osaka",
}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("retrieval")
    corpus = folder / "passages.jsonl"
    corpus.write_text("".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in FACTS.items()))
    build(BuildOptions(corpus=str(corpus), out=str(folder / "index"), num_threads=1))
    return folder / "index"


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server process and its address; it must end with 0 unless it was killed."""
    command = [sys.executable, "-m", "ur2.retrieval.serve", *arguments]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield re.findall(r"at (http://\S+)", process.stdout.readline())[0], process
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(timeout=20)
    assert code in (0, -signal.SIGKILL)


@pytest.fixture(scope="module")
def server(index: Path) -> Iterator[str]:
    with serving(f"index={index}", "port=0") as (url, _):
        yield url


async def test_questions_over_http_find_their_facts(server: str) -> None:
    client = RetrievalClient(HttpTransport(server))
    outcomes = await asyncio.gather(*(client.search([query], 2) for query in ASKED))
    await client.close()
    found = []
    for (passages,) in outcomes:
        assert not isinstance(passages, RetrievalFailed)
        found.append((passages[0].id, passages[0].text, len(passages)))
    assert found == [(id_, FACTS[id_], 2) for id_ in ASKED.values()]
    assert client.metrics()["failure_rate"] == 0.0


async def test_http_and_in_process_answers_agree(server: str, index: Path) -> None:
    service = RetrievalService.open({"default": index}, ServiceOptions())
    local, remote = RetrievalClient(LocalTransport(service)), RetrievalClient(HttpTransport(server))
    here, there = [await client.search(list(ASKED), 3) for client in (local, remote)]
    for mine, theirs in zip(here, there, strict=True):
        assert not isinstance(mine, RetrievalFailed)
        assert not isinstance(theirs, RetrievalFailed)
        assert [p.id for p in mine] == [p.id for p in theirs]
        assert [p.score for p in mine] == pytest.approx([p.score for p in theirs], abs=1e-3)
    await remote.close()
    await service.close()


async def test_a_request_the_server_refuses_is_a_typed_failure(server: str) -> None:
    client = RetrievalClient(HttpTransport(server))
    (outcome,) = await client.search(["a"], 100_000)
    await client.close()
    assert isinstance(outcome, RetrievalFailed)
    assert "422" in outcome.reason


def test_a_taken_port_ends_the_server_with_2_and_one_message(server: str, index: Path) -> None:
    port = server.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "ur2.retrieval.serve", f"index={index}", f"port={port}"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: port {port} of 127.0.0.1 is taken")
    assert done.stderr.count("\n") == 1


def test_a_missing_index_ends_the_server_with_2_and_the_remedy(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ur2.retrieval.serve", f"index={tmp_path}", "port=0"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "python -m ur2.retrieval.build" in done.stderr


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of words, which is opened within seconds."""
    folder = tmp_path_factory.mktemp("words")
    corpus = folder / "passages.jsonl"
    rows = ({"id": str(i), "text": f"Fact {i} is about subject{i % 97}."} for i in range(2000))
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    build(BuildOptions(corpus=str(corpus), out=str(folder / "index"), index="lexical"))
    return folder / "index"


async def test_every_request_ends_while_the_server_is_killed_and_restarted(words: Path) -> None:
    """2,000 requests, 64 at a time."""
    outcomes: Counter[str] = Counter()
    numbers = iter(range(2000))
    back = asyncio.Event()
    with serving(f"index={words}", "port=0") as (url, first):
        client = RetrievalClient(
            HttpTransport(url), deadline_s=5, max_retries=2, breaker_rest_s=0.2
        )

        async def ask() -> None:
            for number in numbers:
                async with asyncio.timeout(10):
                    (outcome,) = await client.search([f"subject{number % 97} fact {number}"], 3)
                if isinstance(outcome, RetrievalFailed):
                    outcomes["failed"] += 1
                    assert outcome.reason
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(back.wait(), timeout=2)
                    await asyncio.sleep(0.3)  # longer than the breaker rests
                else:
                    outcomes["answered"] += 1
                    assert len(outcome) == 3

        for _ in range(2):  # connections, pools and caches are there before memory is measured
            await asyncio.gather(*(client.search([f"warm {i}"], 3) for i in range(64)))
        before_bytes = psutil.Process().memory_info().rss
        asking = [asyncio.create_task(ask()) for _ in range(64)]
        while outcomes["answered"] < 700:
            await asyncio.wait(asking, timeout=0.01)
        first.kill()
        first.wait()
        with contextlib.ExitStack() as stack:
            again = serving(f"index={words}", f"port={url.rsplit(':', 1)[1]}")
            _, second = await asyncio.to_thread(stack.enter_context, again)
            back.set()
            early_bytes = psutil.Process(second.pid).memory_info().rss
            await asyncio.gather(*asking)
            late_bytes = psutil.Process(second.pid).memory_info().rss
            assert sum(outcomes.values()) == 2000
            assert outcomes["answered"] > 1000
            assert outcomes["failed"] > 0
            assert late_bytes - early_bytes < 50 * 2**20
            assert psutil.Process().memory_info().rss - before_bytes < 50 * 2**20
            await asyncio.sleep(0.3)
            assert not isinstance((await client.search(["subject1"], 3))[0], RetrievalFailed)
            await client.close()


def test_an_index_is_replaced_under_load_without_a_lost_request(
    words: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "served"
    folder.symlink_to(words)
    corpus = tmp_path / "passages.jsonl"
    corpus.write_text('{"id": "only", "text": "subject1"}\n')
    other = tmp_path / "other"
    build(BuildOptions(corpus=str(corpus), out=str(other), index="lexical"))
    with serving(f"indexes.words={folder}", "port=0") as (url, process), httpx.Client() as http:
        found = []
        for number in itertools.count():
            body = {"queries": [f"subject1 {number}"], "topk": 1}
            response = http.post(f"{url}/retrieve", json=body)
            assert response.status_code == 200
            found.append(response.json()["result"][0][0]["id"])
            if number == 50:
                folder.unlink()
                folder.symlink_to(other)
                process.send_signal(signal.SIGHUP)
            if found[-1] == "only":
                break
            assert number < 5000
        assert http.get(f"{url}/ready").json()["corpora"]["words"]["num_passages"] == 1
        folder.unlink()
        assert http.post(f"{url}/reload", json={}).status_code == 409
        assert http.post(f"{url}/retrieve", json=body).status_code == 200


def test_a_request_under_way_is_answered_although_the_server_is_told_to_end(words: Path) -> None:
    body = b'{"queries": ["subject1"]}'
    head = f"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    request = head.encode() + b"Content-Type: application/json\r\n\r\n" + body
    with serving(f"index={words}", "port=0", "batch_window_ms=1500") as (url, process):
        port = int(url.rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(request)
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")


def test_an_encoder_that_is_not_there_is_bad_input_and_leaves_nothing(index: Path) -> None:
    out = index.parent / "other"
    options = BuildOptions(
        corpus=str(index.parent / "passages.jsonl"), out=str(out), encoder="/no/such/folder"
    )
    with pytest.raises(InputError, match="encoder '/no/such/folder' cannot be loaded"):
        build(options)
    assert sorted(path.name for path in out.parent.iterdir()) == ["index", "passages.jsonl"]

"""The real encoder, index, HTTP server and client together."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ur2.errors import InputError
from ur2.retrieval.build import build
from ur2.retrieval.client import HttpTransport, LocalTransport, RetrievalClient
from ur2.retrieval.options import BuildOptions, ServiceOptions
from ur2.retrieval.service import RetrievalService
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


@pytest.fixture(scope="module")
def server(index: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "ur2.retrieval.serve", f"index={index}", "port=0"]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield re.findall(r"at (http://\S+)", process.stdout.readline())[0]
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(timeout=20)
    assert code == 0


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
    (outcome,) = await client.search([" "], 1)
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


def test_an_encoder_that_is_not_there_is_bad_input_and_leaves_nothing(index: Path) -> None:
    out = index.parent / "other"
    options = BuildOptions(
        corpus=str(index.parent / "passages.jsonl"), out=str(out), encoder="/no/such/folder"
    )
    with pytest.raises(InputError, match="encoder '/no/such/folder' cannot be loaded"):
        build(options)
    assert sorted(path.name for path in out.parent.iterdir()) == ["index", "passages.jsonl"]

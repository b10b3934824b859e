"""The remote engine and an evaluation against a real `vllm serve` on this machine."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil
import pytest
import torch

pytest.importorskip("vllm")

from ur2.errors import InputError
from ur2.rollout.choices import Choices, choose
from ur2.rollout.engines.base import Generation, GenerationRequest
from ur2.rollout.engines.hf import HfEngine
from ur2.rollout.engines.remote import RemoteEngine
from ur2.rollout.options import EngineOptions, RemoteOptions

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("tiny_model", [False], indirect=True, ids=["untied"]),
]

MAX_MODEL_LEN = 512
NUM_QUESTIONS = 6
PROMPTS = [tuple(range(20, 28 + 5 * i)) for i in range(6)]
START_TIMEOUT_S = 300
# The module, as the command looks up its version under the name of the GPU build.
SERVE = (sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--served-model-name", "tiny")
SETTINGS = (
    *("--dtype", "float32", "--max-model-len", str(MAX_MODEL_LEN), "--max-num-seqs", "16"),
    *("--enforce-eager", "--no-enable-chunked-prefill", "--logprobs-mode", "processed_logprobs"),
)
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@pytest.fixture(scope="module")
def model(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model whose own generation config would change the sampling."""
    path = tmp_path_factory.mktemp("served") / "model"
    shutil.copytree(tiny_model, path)
    own = {"repetition_penalty": 1.8, "min_p": 0.2, "top_k": 3, "temperature": 0.2}
    (path / "generation_config.json").write_text(json.dumps({"do_sample": True, **own}))
    return str(path)


class Server(NamedTuple):
    address: str
    process: "subprocess.Popen[bytes]"
    log: Path


@pytest.fixture(scope="module")
def server(model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of `model` that is starting; it ends with all its processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*SERVE, "--model", model, "--host", "127.0.0.1", "--port", str(port), *SETTINGS],
            env={**os.environ, **ENVIRONMENT},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    yield Server(f"http://127.0.0.1:{port}/v1", process, log)
    left = end(psutil.Process(process.pid))
    process.wait()
    assert not left


def end(server: psutil.Process) -> list[psutil.Process]:
    """Asks the server to end; those of its processes that had to be killed."""
    family = [server, *server.children(recursive=True)]
    server.send_signal(signal.SIGTERM)
    _, left = psutil.wait_procs(family, timeout=30)
    for process in left:
        process.kill()
    return left


@pytest.fixture(scope="module")
def greedy(server: Server, model: str) -> list[Generation]:
    """What the hf engine says, found out while the server starts."""
    return asyncio.run(draw(hf(model), temperature=0.0))


@pytest.fixture(scope="module")
def url(server: Server) -> str:
    """The server's address, once it answers."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            httpx.get(f"{server.address}/models").raise_for_status()
        except httpx.HTTPError:
            assert server.process.poll() is None, server.log.read_text()
            assert time.monotonic() < deadline, server.log.read_text()
            time.sleep(0.2)
        else:
            return server.address


def remote(url: str, model: str, *, max_model_len: int = MAX_MODEL_LEN) -> RemoteEngine:
    options = EngineOptions(name="remote", remote=RemoteOptions(url=url, model="tiny"))
    return RemoteEngine(
        options, model_path=model, dtype="float32", max_model_len=max_model_len, seed=0
    )


def hf(model: str) -> HfEngine:
    return HfEngine(
        EngineOptions(), model_path=model, dtype="float32", max_model_len=MAX_MODEL_LEN, seed=0
    )


async def draw(engine, **request) -> list[Generation]:
    await engine.start()
    try:
        return await asyncio.gather(
            *(
                engine.generate(GenerationRequest(token_ids=p, max_tokens=24, seed=i, **request))
                for i, p in enumerate(PROMPTS)
            )
        )
    finally:
        await engine.close()


def test_greedy_turns_and_logprobs_are_those_of_the_hf_engine(
    greedy: list[Generation], url: str, model: str
) -> None:
    ours = asyncio.run(draw(remote(url, model), temperature=0.0))
    for a, b in zip(ours, greedy, strict=True):
        assert (a.token_ids, a.text, a.finish) == (b.token_ids, b.text, b.finish)
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


def test_sampled_logprobs_are_the_models_own_and_stops_are_kept(url: str, model: str) -> None:
    from transformers import AutoModelForCausalLM

    drawn = asyncio.run(draw(remote(url, model), temperature=0.7, stop_strings=("a",)))
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    for prompt, turn in zip(PROMPTS, drawn, strict=True):
        with torch.no_grad():
            logits = reference(torch.tensor([[*prompt, *turn.token_ids]])).logits[0] / 0.7
        logprobs = torch.log_softmax(logits, -1)[len(prompt) - 1 : -1]
        expected = logprobs[range(len(turn.token_ids)), turn.token_ids].tolist()
        assert turn.logprobs == pytest.approx(expected, abs=1e-4)
    stopped = [turn for turn in drawn if "a" in turn.text]
    assert stopped
    assert all(turn.finish == "stop" for turn in stopped)


def test_choices_are_drawn_and_told_under_the_distribution_that_they_leave(
    url: str, model: str
) -> None:
    from transformers import AutoModelForCausalLM

    choices = Choices(texts=("one", "two"), token_ids=((40, 50), (41, 50)))

    async def chosen() -> list[Generation]:
        engine = remote(url, model)
        await engine.start()
        try:
            requests = [
                GenerationRequest(token_ids=p, max_tokens=1, temperature=0.7, seed=i)
                for i, p in enumerate(PROMPTS)
            ]
            return await asyncio.gather(*(choose(engine.generate, r, choices) for r in requests))
        finally:
            await engine.close()

    drawn = asyncio.run(chosen())
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    for prompt, turn in zip(PROMPTS, drawn, strict=True):
        with torch.no_grad():
            logits = reference(torch.tensor([prompt])).logits[0, -1, [40, 41]] / 0.7
        expected = torch.log_softmax(logits, -1)[turn.token_ids[0] - 40].item()
        assert turn.logprobs == pytest.approx((expected, 0.0), abs=1e-4)


def test_a_server_of_shorter_contexts_is_refused_at_once(url: str, model: str) -> None:
    engine = remote(url, model, max_model_len=MAX_MODEL_LEN + 1)
    with pytest.raises(InputError, match=f"--max-model-len {MAX_MODEL_LEN + 1}"):
        asyncio.run(draw(engine))


def test_an_evaluation_through_the_command_line(url: str, model: str, tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    rows = [{"question": f"Capital of France, {i}?", "answer": "Paris", "idx": i} for i in range(9)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ur2.evaluate", f"checkpoint={model}", "+benchmark=atlas"),
            *(f"benchmarks.atlas.file={file}", f"limit={NUM_QUESTIONS}", "search=false"),
            *("prompt=atlas", "rollout=atlas", "rollout.max_prompt_tokens=200"),
            *("engine=remote", f"rollout.engine.remote.url={url}"),
            *("rollout.engine.remote.model=tiny", f"out={tmp_path / 'out'}"),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    atlas = json.loads((tmp_path / "out" / "results.json").read_text())["benchmarks"]["atlas"]
    assert sum(atlas["statuses"].values()) == atlas["num_items"] == NUM_QUESTIONS
    assert atlas["statuses"]["tool_failed"] == 0
    items = (tmp_path / "out" / "items" / "atlas.jsonl").read_text().splitlines()
    assert all(json.loads(item)["transcript"] for item in items)

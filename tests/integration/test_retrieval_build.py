"""The real `build` command with two encoding processes, killed, interrupted and run again."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ur2.retrieval.build import build
from ur2.retrieval.options import BuildOptions
from ur2.retrieval.service.store import PassageStore

pytestmark = pytest.mark.slow

NUM_PASSAGES, SHARD_SIZE = 1200, 75
TIMEOUT_S = 240


def test_a_killed_and_interrupted_build_ends_like_one_that_was_left_alone(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    words = ["a", "ship", "sailed", "over", "the", "calm", "sea", "to", "an", "old", "harbour"]
    rng = np.random.default_rng(0)
    with corpus.open("w") as file:
        for n in range(NUM_PASSAGES):
            text = " ".join(rng.choice(words, rng.integers(3, 40)))
            file.write(f'{{"id": "{n}", "title": "T{n}", "text": "{text}"}}\n')

    tree = {"corpus": str(corpus), "shard_size": SHARD_SIZE, "precision": "float32"}
    out, vectors = tmp_path / "index", tmp_path / "vectors"
    here = {**tree, "out": out, "vectors": vectors, "num_workers": 2, "num_threads": 2}
    command = [sys.executable, "-m", "ur2.retrieval.build", *(f"{k}={v}" for k, v in here.items())]

    def shards() -> dict[str, int]:
        return {path.name: path.stat().st_ino for path in vectors.glob("*.npy")}

    def stop(number: int, is_time: Callable[[], bool]) -> tuple[int, str]:
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            until = time.monotonic() + TIMEOUT_S
            while not is_time():
                assert process.poll() is None, process.stderr and process.stderr.read()
                assert time.monotonic() < until
                time.sleep(0.05)
            process.send_signal(number)
            _, error = process.communicate(timeout=TIMEOUT_S)
        return process.returncode, error

    assert stop(signal.SIGKILL, lambda: len(shards()) >= 3)[0] == -signal.SIGKILL
    killed = shards()
    assert not out.exists()
    code, error = stop(signal.SIGINT, lambda: len(shards()) >= len(killed) + 3)
    assert code == 130, error
    assert "the same command goes on" in error
    assert "Traceback" not in error
    interrupted = shards()
    assert killed.items() <= interrupted.items()
    assert len(interrupted) < NUM_PASSAGES // SHARD_SIZE

    subprocess.run(command, check=True, timeout=TIMEOUT_S, capture_output=True)
    assert interrupted.items() <= shards().items()
    whole = {**tree, "out": str(tmp_path / "whole"), "num_threads": 1}
    build(BuildOptions.load(whole, where="test"))
    for file in ("corpus.arrow", "vectors.faiss"):
        assert (out / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert len(PassageStore(out)) == NUM_PASSAGES
    assert not list(tmp_path.glob(".*"))

"""The whole system on CPU: real ray, vllm, deepspeed and FAISS, as a user would run it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import zstandard
from safetensors.numpy import load_file

from tests.conftest import shared_memory
from ur2.trainer.cluster.leftovers import remove_leftovers

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
TIMEOUT_S = 600


def train(folder: Path, *overrides: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "ur2.train",
        "+experiment=smoke",
        f"run_dir={folder}",
        *overrides,
    ]


def finish(command: list[str], expected: int = 0) -> str:
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == expected, done.stdout + done.stderr
    return done.stdout + done.stderr


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def read_metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def marked(mark: str) -> list[str]:
    """Processes whose environment comes from a run that was started with `mark`."""
    return [
        " ".join(process.info["cmdline"] or [])
        for process in psutil.process_iter(["cmdline", "environ"])
        if mark in (process.info["environ"] or {}).values()
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smoke run that was stopped by SIGTERM after its first step, then continued."""
    folder = tmp_path_factory.mktemp("smoke") / "run"
    first = subprocess.Popen(train(folder), cwd=ROOT, start_new_session=True)
    checkpoint = folder / "checkpoints/step_000001/state.json"
    wait_until(lambda: checkpoint.exists() or first.poll() is not None, "no first checkpoint")
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=120) in (130, 0)
    finish(train(folder))
    return folder


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run without a stop."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    finish(train(folder))
    return folder


def read_trajectories(folder: Path, step: int) -> list[dict[str, Any]]:
    packed = (folder / f"trajectories/step_{step:06d}.jsonl.zst").read_bytes()
    return [json.loads(line) for line in zstandard.decompress(packed).splitlines()]


def test_a_stopped_run_goes_on_as_if_it_had_not_been(finished: Path, straight: Path) -> None:
    """Same questions, same retrieval, same draws; so the same tokens and the same weights."""
    for step in (1, 2):
        stopped, whole = (read_trajectories(f, step) for f in (finished, straight))
        asked = [[(t["id"], t["question_id"], t["retrieval"]) for t in x] for x in (stopped, whole)]
        assert asked[0] == asked[1]
        texts = [[[s["token_ids"] for s in t["segments"]] for t in x] for x in (stopped, whole)]
        assert texts[0] == texts[1]
    weights = [
        load_file(f / "checkpoints/step_000002/model/model.safetensors")
        for f in (finished, straight)
    ]
    for name, array in weights[0].items():
        np.testing.assert_allclose(array, weights[1][name], atol=1e-5, err_msg=name)


def test_a_stopped_run_continues_to_its_summary(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["steps"] == 2
    assert summary["engine"] == "vllm"
    for side in ("before", "after"):
        assert summary[side]["num_questions"] == 24
        assert set(summary[side]["accuracy_by_bucket"]) == {"qa/easy", "qa/medium", "qa/hard"}
    assert [m["step"] for m in read_metrics(finished)] == [1, 2]


def test_the_policy_really_moved(finished: Path) -> None:
    assert all(m["policy/grad_norm"] > 0 for m in read_metrics(finished))
    first, second = (
        load_file(finished / f"checkpoints/step_00000{step}/model/model.safetensors")
        for step in (1, 2)
    )
    assert any((first[name] != second[name]).any() for name in first)


def test_engine_and_policy_agree_on_logprobs(finished: Path) -> None:
    for metrics in read_metrics(finished):
        assert metrics["mismatch/kl"] < 1e-6
        assert abs(metrics["mismatch/is_max"] - 1) < 1e-3


def test_every_contracted_metric_is_there(finished: Path) -> None:
    keys = set().union(*read_metrics(finished))
    contract = (
        "step reward/mean reward/part/correct accuracy/qa/easy search/per_question/qa/hard "
        "curriculum/retrieval_rate/qa/medium policy/loss policy/grad_norm policy/entropy "
        "policy/clip_fraction mismatch/kl mismatch/is_max group/zero_variance_fraction "
        "rollout/truncated_fraction rollout/staleness_mean retrieval/cache_hit_rate "
        "time/rollout_s time/update_s time/sync_s time/step_s throughput/sampled_tokens_per_s "
        "throughput/trained_tokens_per_s memory/driver_rss_bytes"
    )
    assert set(contract.split()) <= keys


def test_named_phases_account_for_the_steps_time(finished: Path) -> None:
    for metrics in read_metrics(finished):
        named = sum(v for k, v in metrics.items() if k.startswith("time/") and k != "time/step_s")
        assert named >= 0.95 * metrics["time/step_s"]


def test_plots_trajectories_and_trackers_are_left(finished: Path) -> None:
    for path in finished.glob("plots/*.png"):
        assert path.read_bytes()[:4] == b"\x89PNG"
    assert {p.name for p in finished.glob("plots/*.png")} >= {
        "reward.png",
        "held_out_accuracy.png",
        "held_out_searches.png",
    }
    assert len(list(finished.glob("trajectories/*.jsonl.zst"))) == 2
    assert list(finished.glob("wandb/offline-run-*"))


def test_a_finished_run_is_not_run_again(finished: Path) -> None:
    before = (finished / "metrics.jsonl").read_bytes()
    assert "finished run" in finish(train(finished))
    assert (finished / "metrics.jsonl").read_bytes() == before


def test_nothing_outlives_a_killed_run(finished: Path, tmp_path: Path) -> None:
    """SIGKILL leaves no process; what it leaves in shared memory goes with the next start."""
    mark, before = str(tmp_path), shared_memory()
    run = subprocess.Popen(
        train(tmp_path / "run"),
        cwd=ROOT,
        start_new_session=True,
        env={**os.environ, "UR2_TEST_MARK": mark},
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_until(lambda: metrics.exists() or run.poll() is not None, "no first step")
    assert len(marked(mark)) > 5  # ray, the engine, the ranks
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    wait_until(lambda: not marked(mark), "processes outlive the run", timeout_s=60)

    def is_clean() -> bool:
        """A process is gone from the table a moment before its locks are."""
        remove_leftovers()
        return shared_memory() <= before

    wait_until(is_clean, "shared memory outlives the run", timeout_s=10)

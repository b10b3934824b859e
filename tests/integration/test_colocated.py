"""A run whose engines sleep while the policy computes is the run in which they need not."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zstandard
from safetensors.numpy import load_file

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
TIMEOUT_S = 600


def train(folder: Path, model: str, placement: str) -> str:
    """A run of two steps, without retrieval; returns what it printed.

    The engine is hf, which really gives its memory away.
    """
    questions = ROOT / "tests" / "fixtures" / "qa.jsonl"
    command = [
        *(sys.executable, "-m", "ur2.train", "+experiment=smoke", f"run_dir={folder}"),
        *("engine=hf", f"cluster.placement={placement}", f"model.path={model}"),
        *(f"dataset.train={questions}", f"dataset.eval={questions}", "prepare=[]"),
        *("retrieval=none", "curriculum=never", "trainer.eval_retrieval=false"),
        *("rollout.sampling.seeded=true", "rollout.max_tokens=40", "trainer.eval_every=1"),
        *("trainer.questions_per_step=4", "trainer.filter_zero_variance=false"),
        # the decay moves the weights, whatever the rewards; the large eps keeps noise small
        *("policy.learning_rate=1e-3", "policy.weight_decay=50.0", "policy.adam_eps=1.0"),
        *("trainer.trackers=[]", "trainer.mode=sync"),
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def read_metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def read_tokens(folder: Path, step: int) -> list[Any]:
    packed = (folder / f"trajectories/step_{step:06d}.jsonl.zst").read_bytes()
    trajectories = map(json.loads, zstandard.decompress(packed).splitlines())
    return [(t["id"], [s["token_ids"] for s in t["segments"]]) for t in trajectories]


@pytest.mark.parametrize("tiny_model", [False], indirect=True)
def test_a_colocated_run_is_the_disaggregated_one(tiny_model: str, tmp_path: Path) -> None:
    apart, together = tmp_path / "apart", tmp_path / "together"
    train(apart, tiny_model, "disaggregated")
    shown = train(together, tiny_model, "colocated")
    for worker in ("policy rank 0", "policy rank 1", "rollout worker 0"):
        assert worker in shown
    for step in (1, 2):
        assert read_tokens(together, step) == read_tokens(apart, step)
    first, second = (
        load_file(together / f"checkpoints/step_00000{step}/model/model.safetensors")
        for step in (1, 2)
    )
    assert all((first[name] != second[name]).any() for name in first if first[name].ndim == 2)
    for ours, theirs in zip(read_metrics(together), read_metrics(apart), strict=True):
        assert ours.pop("time/sleep_s") > 0
        clocks = ("time/", "idle/", "throughput/", "memory/")
        measured = {k for k in theirs if not k.startswith(clocks) and not k.endswith("_s")}
        assert {k: ours[k] for k in measured} == pytest.approx(
            {k: theirs[k] for k in measured}, rel=1e-4, abs=1e-6
        )
        assert ours["mismatch/kl"] < 1e-6  # the engine has the policy's weights

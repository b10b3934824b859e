"""Bad input: exit code 2, one message with the remedy, nothing written."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["+experiment=smok"], "smoke"),
        ([], "+experiment="),
        (["+experiment=smoke", "trainer.stepz=1"], "trainer.steps"),
        (["+experiment=smoke", "trainer.steps=soon"], "trainer.steps"),
        (["+experiment=smoke", "dataset.train=nowhere.jsonl"], "nowhere.jsonl"),
        (["+experiment=smoke", "model.path=nowhere/at/all"], "nowhere/at/all"),
        (["+experiment=smoke", "trainer.questions_per_step=3", "policy.num_ranks=8"], "divide"),
        (["+experiment=smoke", "rollout.sampling.top_p=0.9"], "top_p"),
        (["+experiment=smoke", "retrieval.backend=http"], "retrieval.url"),
        (["+experiment=smoke", "rollout.max_tokens=100000"], "model.max_length"),
        (["+experiment=smoke", "cluster=node_8gpu"], "GPUs"),
    ],
)
def test_a_wrong_command_is_one_clear_error(
    overrides: list[str], named: str, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    extra = [f"run_dir={folder}"] if overrides else []
    done = run("ur2.train", *overrides, *extra)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert not folder.exists()


def test_a_model_without_chat_template_is_refused(tmp_path: Path) -> None:
    from ur2.config.load import compose
    from ur2.errors import InputError
    from ur2.policy.model.scratch import ScratchOptions, make_model
    from ur2.rollout.worker import make_renderer

    make_model(ScratchOptions(vocab_size=300), ["a b c"], str(tmp_path / "model"), seed=0)
    for name in ("chat_template.jinja",):
        (tmp_path / "model" / name).unlink()
    options = compose(["+experiment=smoke"])
    with pytest.raises(InputError, match="chat template"):
        make_renderer(options.rollout, options.prompt, str(tmp_path / "model"))


def test_dry_runs_write_nothing_and_exit_0(tmp_path: Path) -> None:
    for experiment in ("quickstart", "medqa_qwen7b"):
        done = run(
            "ur2.train", f"+experiment={experiment}", "dry_run=true", f"run_dir={tmp_path}/r"
        )
        assert done.returncode == 0, done.stderr
        assert "trajectories per step" in done.stdout
    assert not (tmp_path / "r").exists()

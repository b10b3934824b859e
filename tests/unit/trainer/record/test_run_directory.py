import json
from pathlib import Path

import pytest
import zstandard

from ur2.errors import InputError
from ur2.trainer.record.run_directory import RunDirectory

CONFIG = {"experiment": "toy", "seed": 0, "run_dir": None, "resume": "auto", "dry_run": False}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def killed_run(name: str, config: dict[str, object] = CONFIG) -> RunDirectory:
    run = RunDirectory(Path("runs/toy") / name)
    run.open(config)
    run.commit_checkpoint(run.stage_checkpoint(), 10, keep=2)
    return run


def choose(resume: str = "auto", config: dict[str, object] = CONFIG) -> Path:
    return RunDirectory.choose(None, resume, "toy", config, "now").path


def test_the_same_command_after_a_kill_continues_the_run() -> None:
    assert choose() == Path("runs/toy/now")
    killed_run("earlier")
    assert choose() == Path("runs/toy/earlier")


def test_runs_that_start_in_the_same_second_have_folders_of_their_own() -> None:
    chosen = [choose(config=CONFIG | {"seed": seed}) for seed in range(3)]
    assert len(set(chosen)) == 3


def test_a_run_is_continued_on_other_nodes() -> None:
    killed_run("earlier", {**CONFIG, "cluster": {"address": "10.0.0.1:6379", "placement": "x"}})
    elsewhere = {**CONFIG, "cluster": {"address": "10.0.0.7:6379", "placement": "x"}}
    assert choose(config=elsewhere) == Path("runs/toy/earlier")


def test_a_finished_run_or_another_config_is_not_continued() -> None:
    killed_run("finished").write_summary({"steps": 10})
    killed_run("other", CONFIG | {"seed": 1})
    assert choose() == Path("runs/toy/now")


def test_other_values_are_named_by_key_and_where_a_run_is_started_does_not_count() -> None:
    run = killed_run("earlier", {**CONFIG, "policy": {"learning_rate": 1.0, "betas": [0.9]}})
    given = {**CONFIG, "policy": {"learning_rate": 2.0, "betas": (0.9,)}, "resume": "none"}
    assert run.changed_keys(given) == ["policy.learning_rate"]


def test_resume_none_starts_anew_and_never_writes_over() -> None:
    killed = killed_run("earlier")
    assert choose("none") == Path("runs/toy/now")
    with pytest.raises(InputError, match="already holds a run"):
        RunDirectory.choose(str(killed.path), "none", "toy", CONFIG, "now")


def test_a_finished_run_knows_its_steps() -> None:
    run = killed_run("run")
    assert run.finished_steps() == 0
    run.write_summary({"steps": 7})
    assert run.finished_steps() == 7


def test_a_half_written_checkpoint_is_no_checkpoint() -> None:
    run = RunDirectory("run")
    run.open(CONFIG)
    run.stage_checkpoint()
    assert run.newest_checkpoint() is None


def test_only_the_newest_checkpoints_are_kept() -> None:
    run = RunDirectory("run")
    run.open(CONFIG)
    for step in (1, 2, 10, 11):
        run.commit_checkpoint(run.stage_checkpoint(), step, keep=2)
    assert [p.name for p in sorted(run.checkpoints.iterdir())] == ["step_000010", "step_000011"]


def test_metrics_that_a_kill_cut_off_in_the_middle_of_a_line_are_read_up_to_it() -> None:
    run = killed_run("earlier")
    run.append_metrics({"step": 1})
    run.append_metrics({"step": 2, "reward/mean": 0.5})
    run.metrics_path.write_text(run.metrics_path.read_text()[:-9])
    assert run.read_metrics() == [{"step": 1}]
    run.forget_after(1)
    run.append_metrics({"step": 2})
    assert run.read_metrics() == [{"step": 1}, {"step": 2}]


def test_checkpoints_past_the_one_that_a_run_continues_from_are_forgotten() -> None:
    run = killed_run("earlier")
    run.commit_checkpoint(run.stage_checkpoint(), 20, keep=3)
    run.commit_checkpoint(run.stage_checkpoint(), 30, keep=3)
    run.forget_after(10)
    run.commit_checkpoint(run.stage_checkpoint(), 15, keep=2)
    assert [p.name for p in sorted(run.checkpoints.iterdir())] == ["step_000010", "step_000015"]


def test_metrics_past_the_checkpoint_are_forgotten() -> None:
    run = RunDirectory("run")
    run.open(CONFIG)
    for step in range(1, 6):
        run.append_metrics({"step": step})
    run.forget_after(3)
    assert [m["step"] for m in run.read_metrics()] == [1, 2, 3]


def test_trajectories_are_read_back_from_compressed_lines(scored_group) -> None:  # type: ignore[no-untyped-def]
    run = RunDirectory("run")
    run.open(CONFIG)
    run.write_trajectories(7, [scored_group])
    packed = (run.path / "trajectories/step_000007.jsonl.zst").read_bytes()
    records = [json.loads(line) for line in zstandard.decompress(packed).splitlines()]
    assert [r["reward"] for r in records] == [s.total for s in scored_group.scores]
    assert [s["author"] for s in records[0]["segments"]] == ["prompt", "policy"]


@pytest.mark.parametrize("content", ["", "{", "[1]", "{}", "a: b: c"])
def test_damaged_files_of_a_run_are_named(content: str) -> None:
    run = killed_run("earlier")
    run.config_path.write_text(content)
    with pytest.raises(InputError, match=r"earlier/config\.yaml is damaged"):
        choose()
    run.summary_path.write_text(content)
    with pytest.raises(InputError, match=r"earlier/summary\.json is damaged"):
        run.finished_steps()

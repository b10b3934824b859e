import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from ur2.config.load import compose
from ur2.config.schema import RunOptions
from ur2.errors import InputError
from ur2.train import Output, choose_run, train

QUIET = Console(quiet=True)


def options(*overrides: str) -> RunOptions:
    return compose(["+experiment=smoke", *overrides])


def test_a_checkpoint_that_is_none_is_named_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a checkpoint"):
        train(options(f"resume={tmp_path}", "dry_run=true"))


def test_a_folder_of_another_experiment_is_left_alone(tmp_path: Path) -> None:
    theirs = yaml.safe_dump({"experiment": "quickstart", "seed": 0})
    (tmp_path / "config.yaml").write_text(theirs)
    with pytest.raises(InputError, match="another experiment"):
        choose_run(options(f"run_dir={tmp_path}"), QUIET)


def test_a_run_of_no_steps_is_not_taken_for_a_finished_one(tmp_path: Path) -> None:
    wanted = options(f"run_dir={tmp_path / 'run'}", "trainer.steps=0")
    assert choose_run(wanted, QUIET) is not None
    (tmp_path / "run").mkdir()
    (tmp_path / "run/summary.json").write_text(json.dumps({"steps": 0}))
    assert choose_run(wanted, QUIET) is None


def test_a_reader_who_leaves_is_a_failure_that_the_loop_sees() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "from ur2.train import Output, run_entry; run_entry(lambda: Output().print(1))",
            ],
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (3, "error: nobody reads the output any more\n")


def test_brackets_in_paths_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = options("run_dir='run[b]'", "trainer.steps=10")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run[b]").mkdir()
    (tmp_path / "run[b]/summary.json").write_text(json.dumps({"steps": 10}))
    assert choose_run(wanted, Output()) is None
    assert "run[b] holds a finished run" in capsys.readouterr().out

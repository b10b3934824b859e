from pathlib import Path

import pytest
from rich.console import Console

from ur2.config.load import compose
from ur2.config.prepare import prepare
from ur2.config.schema import RunOptions
from ur2.errors import InputError
from ur2.trainer.options import PrepareOptions


def options(tmp_path: Path, command: str, *makes: str) -> RunOptions:
    steps = (PrepareOptions(makes=tuple(str(tmp_path / m) for m in makes), command=command),)
    return compose(["+experiment=smoke"]).model_copy(update={"prepare": steps})


def test_own_commands_run(tmp_path: Path) -> None:
    command = (
        f"python -m ur2.datasets.atlas out={tmp_path}/atlas num_cities=30 num_train=6 "
        "num_test_per_level=2 num_skills=4 num_habits=4"
    )
    prepare(options(tmp_path, command, "atlas/train.jsonl"), Console(quiet=True))
    assert (tmp_path / "atlas/train.jsonl").exists()


def test_a_failing_command_stops_the_run_with_its_own_exit_code(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exit code 2"):
        prepare(options(tmp_path, "python -m ur2.datasets.atlas oot=x"), Console(quiet=True))


def test_foreign_commands_are_shown_not_run(tmp_path: Path) -> None:
    command = f"touch {tmp_path}/made"
    with pytest.raises(InputError, match="touch"):
        prepare(options(tmp_path, command, "made"), Console(quiet=True))
    assert not (tmp_path / "made").exists()

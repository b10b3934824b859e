import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from ur2.config.load import CONFIGS, compose
from ur2.config.preflight import find_inputs
from ur2.config.prepare import needed_steps, prepare, run_command
from ur2.config.schema import RunOptions
from ur2.errors import InputError
from ur2.trainer.options import PrepareOptions


def options(tmp_path: Path, command: str, makes: str) -> RunOptions:
    """A run that reads what its one command makes."""
    made = str(tmp_path / makes)
    run = compose(["+experiment=smoke", f"dataset.train={made}"])
    steps = (PrepareOptions(makes=(made,), command=command),)
    return run.model_copy(update={"prepare": steps})


def test_own_commands_run(tmp_path: Path) -> None:
    command = (
        f"python -m ur2.datasets.atlas out={tmp_path}/atlas num_cities=30 num_train=6 "
        "num_test_per_level=2 num_skills=4 num_habits=4"
    )
    prepare(options(tmp_path, command, "atlas/train.jsonl"), Console(quiet=True))
    assert (tmp_path / "atlas/train.jsonl").exists()


def test_a_failing_command_stops_the_run_with_its_own_exit_code(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exit code 2"):
        prepare(options(tmp_path, "python -m ur2.datasets.atlas oot=x", "x"), Console(quiet=True))


TIDIES_UP = """
import os, pathlib, signal, sys, time
def end(*_):
    time.sleep(1)  # longer than subprocess.run would wait
    pathlib.Path(sys.argv[1], "tidy").touch()
    sys.exit(130)
signal.signal(signal.SIGINT, end)
signal.signal(signal.SIGTERM, end)
pathlib.Path(sys.argv[1], f"up-{os.getpid()}").touch()
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_interrupted_tidies_up_first(number: int, tmp_path: Path) -> None:
    def interrupt() -> None:
        while not (up := list(tmp_path.glob("up-*"))):
            time.sleep(0.02)
        if number == signal.SIGINT:  # a terminal tells all processes
            os.kill(int(up[0].name[3:]), number)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt).start()
    assert run_command([sys.executable, "-c", TIDIES_UP, str(tmp_path)]) == 130
    assert (tmp_path / "tidy").exists()


def test_foreign_commands_are_shown_not_run(tmp_path: Path) -> None:
    command = f"touch {tmp_path}/made"
    with pytest.raises(InputError, match="touch"):
        prepare(options(tmp_path, command, "made"), Console(quiet=True))
    assert not (tmp_path / "made").exists()


def test_all_steps_of_the_quickstart_are_needed_in_their_order() -> None:
    run = compose(["+experiment=quickstart"])
    assert [s.command for s in needed_steps(run)] == [s.command for s in run.prepare]


def test_what_a_chosen_input_replaces_is_not_made() -> None:
    run = compose(["+experiment=quickstart", "model.path=mine"])
    assert not any("coldstart" in step.command for step in needed_steps(run))
    run = compose(["+experiment=medqa_qwen7b", "dataset.train=mine.jsonl"])
    assert [step.makes for step in needed_steps(run)] == [
        ("data/ur2/medqa_500_5options.jsonl",),
        ("data/medqa/textbooks",),  # the index is still made from them
        ("data/medqa/corpus.arrow",),
        ("data/medqa/index",),
    ]
    run = compose(["+experiment=vanilla_rl_qwen7b"])
    assert not any("retrieval" in step.command for step in needed_steps(run))


@pytest.mark.parametrize("model", ["qwen3b", "qwen7b", "llama8b"])
def test_stage_2_starts_from_its_own_stage_1(model: str) -> None:
    run = compose([f"+experiment=math_rag_stage2_{model}"])
    *_, last = needed_steps(run)
    assert last.makes == (run.model.path,)
    stage1 = compose(last.command.split()[3:])
    assert stage1.experiment == f"math_rag_stage1_{model}"
    end = f"{stage1.run_dir}/checkpoints/step_{stage1.trainer.steps:06d}/model"
    assert end == run.model.path
    assert sum("ur2.train" in step.command for step in needed_steps(run)) == 1


def test_experiments_name_what_makes_each_of_their_inputs() -> None:
    for experiment in sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml")):
        run = compose([f"+experiment={experiment}"])
        made = {path for step in run.prepare for path in step.makes}
        read = {item.path for item in find_inputs(run) if item.state != "on the hub"}
        assert read <= made, experiment

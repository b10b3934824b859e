"""From command lines to what the nodes need, and to ray's."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from ur2.errors import InputError
from ur2.launch.job import entrypoint, runtime_env
from ur2.launch.needs import compose_first, needs_of
from ur2.launch.options import JobOptions, LaunchOptions, PreflightOptions
from ur2.launch.ports import ports_of, ray_start
from ur2.launch.words import split_words

SMOKE = ["+experiment=smoke", "engine=hf"]


def test_a_runs_folders_are_shared_and_its_files_are_everywhere(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    run = compose_first(
        [
            *SMOKE,
            f"model.path={tmp_path}/model",
            f"run_dir={tmp_path}/run",
            f"cluster.weights_dir={tmp_path}/weights",
        ]
    )
    needs = needs_of(run, PreflightOptions(shared=("more",)), num_nodes=2)
    assert needs.shared[f"{tmp_path}/run"] == "run_dir"
    assert needs.shared[f"{tmp_path}/weights"] == "cluster.weights_dir"
    assert "more" in needs.shared
    assert needs.inputs[f"{tmp_path}/model"] == "model.path"


def test_what_the_run_makes_itself_needs_a_shared_folder_around_it() -> None:
    run = compose_first([*SMOKE, "cluster.weights_dir=weights", "model.path=nowhere/model"])
    run = run.model_copy(
        update={
            "prepare": (run.prepare[0].model_copy(update={"makes": ("nowhere/model",)}),),
        }
    )
    needs = needs_of(run, PreflightOptions(), num_nodes=2)
    assert needs.shared[str(Path.cwd())] == "model.path"


def test_a_model_of_the_hub_is_looked_for_in_the_caches() -> None:
    run = compose_first(["+experiment=medqa_qwen7b", "engine=hf", "cluster.weights_dir=w"])
    needs = needs_of(run, PreflightOptions(), num_nodes=2)
    assert needs.hub_models == ["Qwen/Qwen2.5-7B-Instruct"]


def test_weights_of_several_nodes_need_a_folder() -> None:
    run = compose_first(SMOKE)
    with pytest.raises(InputError, match=r"cluster\.weights_dir is not set"):
        needs_of(run, PreflightOptions(), num_nodes=2)
    assert needs_of(run, PreflightOptions(), num_nodes=1).num_gpus == 0


def test_a_sweep_is_checked_by_its_first_job() -> None:
    assert compose_first(["-m", *SMOKE, "seed=3,4", "trainer.steps=7"]).seed == 3
    assert compose_first(["-m", *SMOKE, "seed=range(5,8)"]).seed == 5
    with pytest.raises(InputError, match=r"cannot read 'seed=\(' as key=value"):
        compose_first(["-m", *SMOKE, "seed=("])


def test_the_launchers_words_are_told_from_the_runs() -> None:
    own, others = split_words(["launch.ports=[7000]", "seed=1", "-m", "--help"], "launch.")
    assert own == ["ports=[7000]", "--help"]
    assert others == ["-m", "--help", "seed=1"]


@pytest.mark.parametrize(
    "options",
    [
        {"hosts": ()},
        {"hosts": ("a", " ")},
        {"hosts": ("a", "b", "a")},
        {"hosts": ("a", "b", "c"), "ports": (7000, 8000)},
        {"hosts": ("a",), "ports": (65000,)},
        {"hosts": ("a",), "ports": (80,)},
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"hosts|ports"):
        LaunchOptions(**options)


def test_no_port_has_two_uses_and_ray_gets_each() -> None:
    options = LaunchOptions(hosts=("a", "b"), ports=(7000, 9000), num_worker_ports=20)
    for number, first in enumerate(options.ports):
        ports = ports_of(options, number)
        all_of_them = [port for uses in ports.by_use.values() for port in uses]
        assert len(all_of_them) == len(set(all_of_them))
        within = range(first, first + 10 + 20)
        assert set(all_of_them) <= {*within, options.dashboard_port}
        words = " ".join(ray_start(ports, "10.0.0.9", "10.0.0.1:7000", None, 123))
        last = ports.by_use["workers"][-1]
        named = [port for port in all_of_them if f"={port}" in words]
        assert len(named) == len(all_of_them) - 20 + 2  # of the workers', first and last
        assert f"--max-worker-port={last}" in words
        assert ("--head" in words) == (number == 0)
        assert ("--address=10.0.0.1:7000" in words) == (number == 1)


def test_a_job_becomes_its_run_with_words_as_they_were() -> None:
    options = JobOptions(address="http://head:8265", root="/shared/my ur2", python=sys.executable)
    command = entrypoint(options, ["+experiment=smoke", "model.path='a b'"])
    assert command.startswith("cd '/shared/my ur2' && exec ")
    assert """'model.path='"'"'a b'"'"''""" in command
    uploaded = JobOptions(address="http://head:8265", upload=True, python="python")
    assert entrypoint(uploaded, []).startswith("exec python -m ur2.launch.inside ")
    environment = runtime_env(uploaded)
    assert environment["working_dir"] == str(Path.cwd())
    assert environment["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"] == "600"


def test_a_jobs_workers_run_in_the_clusters_copy_with_its_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = runtime_env(JobOptions(address="http://head:8265", root=str(tmp_path)))
    assert environment["py_executable"] == f"{tmp_path}/.venv/bin/python"
    assert "working_dir" not in environment
    for name, value in environment["env_vars"].items():
        monkeypatch.setenv(name, value)
    module, _, hook = environment["worker_process_setup_hook"].rpartition(".")
    monkeypatch.chdir("/")
    getattr(importlib.import_module(module), hook)()
    assert Path.cwd() == tmp_path


def test_packages_of_the_users_are_those_of_all_import_paths() -> None:
    run = compose_first([*SMOKE, "cluster.weights_dir=w"])
    assert needs_of(run, PreflightOptions(), num_nodes=2).plugins == []
    terms = {"x": run.reward.terms["correct"].model_copy(update={"kind": "my_terms:X"})}
    environment = run.environment.model_copy(update={"name": "my_games.guess:Guess"})
    dataset = run.dataset.model_copy(update={"eval": "a.jsonl?task=qa&adapter=my_rows.x:y&z=1"})
    run = run.model_copy(
        update={
            "environment": environment,
            "dataset": dataset,
            "reward": run.reward.model_copy(update={"terms": terms}),
        }
    )
    needs = needs_of(run, PreflightOptions(), num_nodes=2)
    assert needs.plugins == ["my_games", "my_rows", "my_terms"]


def test_a_file_is_looked_for_without_what_its_name_says_of_its_rows(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.touch()
    run = compose_first([*SMOKE, "cluster.weights_dir=w", f"dataset.train='{file}?task=math'"])
    assert needs_of(run, PreflightOptions(), num_nodes=2).inputs[str(file)] == "dataset.train"

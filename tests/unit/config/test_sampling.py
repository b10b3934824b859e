"""Training learns from the whole distribution, or says why it cannot: no option gets round it."""

import sys
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from ur2.config.load import compose
from ur2.config.preflight import check_options
from ur2.config.schema import RunOptions
from ur2.errors import InputError, run_entry
from ur2.rollout.options import SamplingOptions
from ur2.train import main

QUICK = "+experiment=quickstart"
STAGES = "curriculum.stages=[{name: a, stop: {steps: 1}%s}, {name: b}]"


@pytest.mark.parametrize(
    "override",
    [
        "rollout.sampling.top_p=0.9",
        "rollout.sampling.top_k=50",
        "rollout.sampling={top_p: 0.999}",
        "++rollout.sampling.top_k=1",
    ],
)
def test_no_override_trains_on_a_part_of_the_distribution(override: str) -> None:
    with pytest.raises(InputError, match=r"rollout\.sampling\.top_p must be 1 and top_k 0"):
        check_options(compose([QUICK, override]))


def test_greedy_training_is_refused() -> None:
    with pytest.raises(InputError, match=r"rollout\.sampling\.temperature must be above 0"):
        check_options(compose([QUICK, "rollout.sampling.temperature=0"]))


@pytest.mark.parametrize("key", ["rollout.sampling", "rollout.eval_sampling"])
def test_a_temperature_that_engines_understand_differently_is_refused(key: str) -> None:
    with pytest.raises(InputError, match=rf"{key}.*must be 0, or 0\.01 to 2, got 0\.005"):
        compose([QUICK, f"{key}.temperature=0.005"])
    compose([QUICK, f"{key}.temperature=0.01"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rollout.sampling.temperatures=[0, 1]", "greater than or equal to 0.01"),
        ("rollout.sampling.temperatures=[1, 2.5]", "less than or equal to 2"),
        (f"rollout.sampling.temperatures={[1.0] * 99}", "99 values for the"),
        ("rollout.eval_sampling.temperatures=[1]", "a held-out question is played once"),
    ],
)
def test_temperatures_that_no_sample_can_have_are_refused(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_options(compose([QUICK, override]))


def test_the_samples_of_a_question_may_differ_in_temperature() -> None:
    options = compose(["+experiment=r3rag_qwen7b"])
    check_options(options)
    drawn = [options.rollout.sampling.of_sample(index).temperature for index in range(4)]
    assert drawn == [0.1, 0.4, 0.7, 1.0]


def test_the_command_ends_with_one_error_and_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ur2.train", QUICK, "rollout.sampling.top_p=0.9"])
    with pytest.raises(SystemExit) as ended:
        run_entry(main)
    assert ended.value.code == 2
    assert "rollout.sampling.top_p must be 1" in capsys.readouterr().err


def test_evaluation_may_cut_the_distribution() -> None:
    check_options(compose([QUICK, "rollout.eval_sampling.top_p=0.5"]))


@pytest.mark.parametrize(
    "override",
    [
        STAGES % ", sampling: {top_p: 0.5}",
        STAGES % ", rollout: {sampling: {top_p: 0.5}}",
        "+rollout.sampling_by_task={math: {top_p: 0.5}}",
        "+rollout.sampling.min_p=0.1",
        "+rollout.engine.top_k=5",
    ],
)
def test_neither_a_stage_nor_a_task_nor_an_engine_has_a_sampling_of_its_own(override: str) -> None:
    with pytest.raises(InputError):
        check_options(compose([QUICK, override]))


def test_the_stages_of_the_test_before_are_right_but_for_their_sampling() -> None:
    check_options(compose([QUICK, STAGES % ""]))


def leading_to(wanted: type, annotation: Any, path: str) -> Iterator[str]:
    """The options, by dotted key, whose type is or holds `wanted`."""
    if annotation is wanted:
        yield path
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, info in annotation.model_fields.items():
            yield from leading_to(wanted, info.annotation, f"{path}.{name}".strip("."))
    else:
        for part in get_args(annotation):
            yield from leading_to(wanted, part, path)


def test_the_check_knows_every_sampling_that_a_run_has() -> None:
    found = set(leading_to(SamplingOptions, RunOptions, ""))
    assert found == {"rollout.sampling", "rollout.eval_sampling"}

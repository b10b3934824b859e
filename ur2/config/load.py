"""Hydra composes, this types: `+experiment=NAME key=value` to options, or one clear error."""

import os
import sys
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ur2.config.schema import DifficultyOptions, EvaluationOptions, InferenceOptions, RunOptions
from ur2.errors import InputError, RunInterruptedError, Ur2Error, refused
from ur2.options import nearest, option_keys, options_class

CONFIGS = Path(__file__).parents[2] / "configs"
MISSING = "???"
ROOTS: Mapping[str, type[InferenceOptions]] = {
    "train": RunOptions,
    "evaluate": EvaluationOptions,
    "difficulty": DifficultyOptions,
}
"""The files that a composition starts from."""

OptionsT = TypeVar("OptionsT", bound=InferenceOptions)


def run_composed(main: Callable[[RunOptions], None]) -> None:
    """Composes the command line's run and calls `main` with it (once per job of a sweep).

    Raises:
        InputError: the config does not compose, or does not fit `RunOptions`.
        Ur2Error: what a job raised; of a sweep, the first, after its last job or an interruption.
    """
    _run_composed(main, from_tree, "train")


def run_composed_evaluation(main: Callable[[EvaluationOptions], None]) -> None:
    """Composes an evaluation from the command line and hands it to `main`."""
    _run_composed(main, evaluation_from_tree, "evaluate")


def run_composed_difficulty(main: Callable[[DifficultyOptions], None]) -> None:
    """Composes a measurement of difficulty from the command line and hands it to `main`."""
    _run_composed(main, difficulty_from_tree, "difficulty")


def compose(overrides: list[str]) -> RunOptions:
    """The options of a command line, without running anything."""
    return from_tree(_compose(overrides, "train"))


def compose_evaluation(overrides: list[str]) -> EvaluationOptions:
    """An evaluation from overrides, without a command line."""
    return evaluation_from_tree(_compose(overrides, "evaluate"))


def compose_difficulty(overrides: list[str]) -> DifficultyOptions:
    """A measurement of difficulty from overrides, without a command line."""
    return difficulty_from_tree(_compose(overrides, "difficulty"))


def from_tree(tree: DictConfig) -> RunOptions:
    """Types a composed tree.

    Raises:
        InputError: naming each unknown, missing or mistyped key.
    """
    given = _given(tree)
    if "experiment" not in given:
        raise InputError(f"choose an experiment: +experiment={_choices('experiment')}")
    return RunOptions.load(given, where="config")


def evaluation_from_tree(tree: DictConfig) -> EvaluationOptions:
    """Types the options of an evaluation, which leaves out what only training needs.

    Raises:
        InputError: as `from_tree`; or no checkpoint or benchmark was chosen.
    """
    given = _given(tree)
    if "checkpoint" not in given:
        raise InputError("choose what to evaluate: checkpoint=PATH")
    if not given.get("benchmarks"):
        raise InputError(f"choose a benchmark: +benchmark={_choices('benchmark')}")
    return EvaluationOptions.load(_without_training(given, EvaluationOptions), where="config")


def difficulty_from_tree(tree: DictConfig) -> DifficultyOptions:
    """Types the options of a measurement of difficulty.

    Raises:
        InputError: as `from_tree`; or there is no folder for the results.
    """
    given = _given(tree)
    if "experiment" not in given:
        raise InputError(f"choose an experiment: +experiment={_choices('experiment')}")
    if "out" not in given:
        raise InputError("choose a folder for the results: out=DIR")
    return DifficultyOptions.load(_without_training(given, DifficultyOptions), where="config")


def _without_training(given: Mapping[str, Any], cls: type[BaseModel]) -> dict[str, Any]:
    """Leaves out what only training reads."""
    training = RunOptions.model_fields.keys() - cls.model_fields
    return {key: value for key, value in given.items() if key not in training}


def _run_composed(
    main: Callable[[OptionsT], None], typed: Callable[[DictConfig], OptionsT], root: str
) -> None:
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra's own handler would exit 1 with a traceback hint
    _store_schemas()
    failures: list[Ur2Error] = []
    is_composed = False

    def job(tree: DictConfig) -> None:
        nonlocal is_composed
        is_composed = True
        if any(isinstance(failure, RunInterruptedError) for failure in failures):
            return  # the user has stopped the whole sweep
        try:
            main(typed(tree))
        except Ur2Error as error:  # Hydra would add a message of its own; a sweep goes on
            failures.append(error)
        except OSError as error:
            if error.errno is None:  # not the operating system's
                raise
            failures.append(refused(error))

    sys.argv[1:] = [_may_add(argument, root) for argument in sys.argv[1:]]
    composed = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=root)(job)
    try:
        composed()
    except HydraException as error:
        raise InputError(_explain(error, root)) from error
    except ValueError as error:  # a group that is set to a number
        if is_composed:
            raise
        raise InputError(f"config: {error}") from error
    if failures:
        raise failures[0]


def _compose(overrides: list[str], root: str) -> DictConfig:
    _store_schemas()
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        try:
            return hydra.compose(root, overrides=[_may_add(each, root) for each in overrides])
        except HydraException as error:
            raise InputError(_explain(error, root)) from error


def _may_add(override: str, root: str) -> str:
    """An override that may name a key which nothing has set, where its options are open."""
    key = override.partition("=")[0]
    mappings = (
        name
        for name, info in option_keys(ROOTS[root])
        if typing.get_origin(info.annotation) is dict
    )
    return f"++{override}" if any(key.startswith(f"{name}.") for name in mappings) else override


def _store_schemas() -> None:
    run = _defaults(RunOptions)
    keys = ("mode", "max_staleness", "num_extra_groups", "tail")
    asked = ",".join(f"${{trainer.{key}}}" for key in keys)
    run["algorithm"]["correction"] = f"${{correction_of:{asked}}}"
    OmegaConf.register_new_resolver("correction_of", _correction_of, replace=True)
    ConfigStore.instance().store(name="schema", node=run)
    ConfigStore.instance().store(
        name="evaluation_schema", node={**run, **_defaults(EvaluationOptions)}
    )
    ConfigStore.instance().store(
        name="difficulty_schema", node={**run, **_defaults(DifficultyOptions)}
    )


def _correction_of(mode: str, max_staleness: int, num_extra_groups: int, tail: str) -> str:
    """The correction by default: samples that outlive the weights that drew them need one."""
    runs_ahead = mode == "one_step_off" or (mode == "async" and max_staleness)
    return "tis" if runs_ahead or (num_extra_groups and tail == "carry_on") else "none"


def _given(tree: DictConfig) -> dict[str, Any]:
    """The tree as plain data, without the keys that nothing sets."""
    try:
        plain = OmegaConf.to_container(tree, resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as error:
        raise InputError(f"config: {str(error).splitlines()[0]}") from error
    given: dict[str, Any] = _without_missing(plain)
    return given


def _choices(group: str) -> str:
    return "|".join(sorted(path.stem for path in (CONFIGS / group).glob("*.yaml")))


def _defaults(cls: type[BaseModel]) -> dict[str, Any]:
    """The schema as Hydra sees it: every key that can be overridden, with its default."""
    return {name: _default(info) for name, info in cls.model_fields.items()}


def _default(info: FieldInfo) -> Any:
    if not info.is_required():
        value = info.get_default(call_default_factory=True)
        return value.model_dump(mode="json") if isinstance(value, BaseModel) else _plain(value)
    nested = options_class(info.annotation)
    return MISSING if nested is None else _defaults(nested)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [v.model_dump(mode="json") if isinstance(v, BaseModel) else v for v in value]
    if isinstance(value, dict):
        return {
            k: v.model_dump(mode="json") if isinstance(v, BaseModel) else v
            for k, v in value.items()
        }
    return value


def _without_missing(node: Any) -> Any:
    if isinstance(node, dict):
        return {k: _without_missing(v) for k, v in node.items() if v != MISSING}
    return [_without_missing(v) for v in node] if isinstance(node, list) else node


def _explain(error: HydraException, root: str) -> str:
    """Hydra's message on one line, with the nearest known key where a key was wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = " ".join(lines)
    if isinstance(error, OverrideParseException):
        return (
            f"cannot read '{error.override}' as key=value ({lines[0]}); quote a value with special "
            "characters, as in key='\"a=b\"'"
        )
    if (
        message.startswith("Could not override '")
        and "No match in the defaults list" not in message
    ):
        key = message.split("'")[1]
        known = [name for name, _ in option_keys(ROOTS[root])]
        if key in known:
            return f"'{key}' is below a key that is not set; write +{key}=VALUE"
        return f"unknown key '{key}' ({nearest(key, known)})"
    return f"config: {message}"

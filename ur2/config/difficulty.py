"""Checks and questions of a measurement of difficulty, before it starts."""

from collections.abc import Iterator
from typing import Any

from ur2.config.measuring import check_engine, retrieval_settings
from ur2.config.preflight import (
    Input,
    check_indexes,
    check_inputs_exist,
    find_input,
    load_checked,
    make_openings,
    own_indexes,
)
from ur2.config.problems import length_problems, retrieval_problems
from ur2.config.schema import DifficultyOptions
from ur2.errors import InputError
from ur2.rewards.rubric import Rubric
from ur2.types import Question


def load_measured(options: DifficultyOptions) -> list[Question]:
    """Checks everything that can be checked before a worker starts, and reads the questions.

    Raises:
        InputError: an option, a file or a question is wrong.
    """
    problems = [*length_problems(options), *_sampling_problems(options)]
    if options.with_retrieval:
        problems += retrieval_problems(options)
    if problems:
        raise InputError("config: " + "; ".join(problems))
    check_inputs_exist(list(_inputs(options)))
    if options.with_retrieval:
        check_indexes(options)
    check_engine(options, options.rollout.sampling)
    openings = make_openings(options)
    questions = load_checked(options.dataset.train, openings)[: options.limit]
    Rubric.from_options(options.reward, openings.renderer.wording.dialect).check(questions)
    return questions


def difficulty_settings(options: DifficultyOptions) -> dict[str, Any]:
    """The options that decide the rollouts, which a continued measurement must share."""
    tree = options.model_dump(mode="json")
    engine = tree["rollout"]["engine"]
    served = {key: engine["remote"][key] for key in ("api", "model")}
    rollout = {k: v for k, v in tree["rollout"].items() if k.startswith("max_") or k == "sampling"}
    return {
        "model.path": options.model.path,
        "rollout.engine.remote": served if engine["name"] == "remote" else None,
        "dataset.train": options.dataset.train,
        "seed": options.seed,
        "samples": options.samples,
        "prompt": tree["prompt"],
        "environment": tree["environment"],
        "rollout": rollout,
        "reward.graders": tree["reward"]["graders"],
        "reward.grader_options": tree["reward"]["grader_options"],
        "reward.judge": _judging(options),
        **retrieval_settings(options),
    }


def _sampling_problems(options: DifficultyOptions) -> Iterator[str]:
    sampling = options.rollout.sampling
    if options.samples > 1 and sampling.temperature == 0 and not sampling.temperatures:
        yield (
            f"rollout.sampling.temperature must be above 0: the {options.samples} samples of a "
            "question would be the same, and no measure of its pass rate"
        )


def _inputs(options: DifficultyOptions) -> Iterator[Input]:
    named = [] if options.rollout.engine.speaks_text else [("model.path", options.model.path)]
    named.append(("dataset.train", options.dataset.train))
    if options.with_retrieval:
        named += own_indexes(options).items()
    for key, path in named:
        found = find_input(key, path, options)
        if found.state == "to be made":
            raise InputError(f"{key}: '{path}' does not exist; make it with: {found.command}")
        yield found


def _judging(options: DifficultyOptions) -> dict[str, Any] | None:
    """The judge that grades after the graders; how long it may take decides nothing."""
    judge = options.reward.judge
    if judge is None:
        return None
    kept = judge.model_dump(mode="json", include={"model", "tasks", "unscored", "grades"})
    return {**kept, "is_there": judge.url is not None}

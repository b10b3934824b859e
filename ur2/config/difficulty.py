"""What a measurement of difficulty needs before it starts: checks, and the questions."""

from collections.abc import Iterator

from ur2.config.evaluation import check_engine, model_of
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


def resolve_model(options: DifficultyOptions) -> DifficultyOptions:
    """The options with `model.path` leading to the checkpoint's model, where one was given."""
    if options.checkpoint is None:
        return options
    model = options.model.model_copy(
        update={"path": model_of(options.checkpoint), "revision": None}
    )
    return options.model_copy(update={"model": model})


def load_inputs(options: DifficultyOptions) -> list[Question]:
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


def _sampling_problems(options: DifficultyOptions) -> Iterator[str]:
    if options.samples > 1 and options.rollout.sampling.temperature == 0:
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

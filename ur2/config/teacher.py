"""The run of a teacher: the experiment's, with another model in the policy's place."""

from pathlib import Path
from typing import Any

from ur2.benchmarks.attempts import Attempt, KeepRule
from ur2.benchmarks.lines import LineFile
from ur2.config.difficulty import difficulty_settings, load_measured
from ur2.config.schema import DifficultyOptions, RunOptions
from ur2.environments.game import Game
from ur2.errors import InputError
from ur2.rollout.options import SamplingOptions
from ur2.trainer.teacher_options import TeacherOptions
from ur2.types import Question

WHERE = "coldstart.teacher"
ATTEMPTS, DEMONSTRATIONS = "attempts.jsonl", "demonstrations.jsonl"


def teacher_run(options: RunOptions, teacher: TeacherOptions) -> DifficultyOptions:
    """Options of playing the run's environment with the teacher."""
    prompt, dataset = options.prompt, options.dataset
    if teacher.system is not None:
        prompt = prompt.model_copy(update={"system": teacher.system})
    if teacher.questions is not None:
        dataset = dataset.model_copy(update={"train": teacher.questions})
    rollout = options.rollout.model_copy(
        update={
            "engine": teacher.engine,
            "num_workers": teacher.num_workers,
            "sampling": sampling_of(teacher, 1),
        }
    )
    shared = {key: getattr(options, key) for key in ("seed", "prepare", "environment", "retrieval")}
    return DifficultyOptions(
        **shared,
        model=options.model.model_copy(
            update={"path": teacher.model, "revision": None, "shape": None}
        ),
        prompt=prompt,
        rollout=rollout,
        cluster=options.cluster,
        experiment=options.experiment,
        dataset=dataset,
        reward=options.reward,
        out=teacher.out,
        samples=1,
        with_retrieval=teacher.retrieval,
        limit=teacher.limit,
        precision=options.policy.precision,
    )


def sampling_of(teacher: TeacherOptions, attempt: int) -> SamplingOptions:
    """The sampling of an attempt, counted from 1; its draws depend on nothing else in play."""
    temperature = teacher.first_temperature if attempt == 1 else teacher.later_temperature
    return SamplingOptions(temperature=temperature, seeded=True)


def load_taught(run: DifficultyOptions) -> list[Question]:
    """Checks everything that can be checked before the teacher is asked; reads the questions.

    Raises:
        InputError: an option, a file or a question is wrong.
    """
    game = Game.load(run.environment)
    if getattr(game.kind, "calls_tools", False):
        raise InputError(
            f"{WHERE}: environment '{game.name}' calls tools in the form of the model's own chat "
            "template, which another model cannot learn from; choose another environment"
        )
    try:
        return load_measured(run)
    except InputError as error:
        raise InputError(f"{WHERE} (its engine is rollout.engine here): {error}") from error


def attempts_file(run: DifficultyOptions) -> LineFile[Attempt]:
    """The file of a teacher's attempts."""
    return LineFile(Path(run.out), Attempt, name=ATTEMPTS, remedy=f"set another {WHERE}.out")


def teacher_settings(run: DifficultyOptions, teacher: TeacherOptions) -> dict[str, Any]:
    """The options that decide attempts, which those of a continued folder must share."""
    kept = ("first_temperature", "later_temperature", "retrieval")
    return {
        **difficulty_settings(run),
        **{f"{WHERE}.{key}": getattr(teacher, key) for key in kept},
    }


def keep_rule(teacher: TeacherOptions) -> KeepRule:
    """Which attempts are kept."""
    return KeepRule(
        keep=teacher.keep,
        min_correct=teacher.min_correct,
        min_searches=teacher.min_searches,
        max_searches=teacher.max_searches,
        max_context_tokens=teacher.max_context_tokens,
    )

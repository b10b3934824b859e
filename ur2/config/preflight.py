"""Checks before any work: first what options alone can tell, then the inputs they name."""

import importlib.util
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ur2.algorithms.advantages import GROUP_RELATIVE
from ur2.config.schema import RunOptions
from ur2.datasets import load_questions
from ur2.errors import InputError
from ur2.prompts.protocol import Protocol
from ur2.prompts.render import PromptRenderer
from ur2.types import Question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
ENGINE_MODULES = {"vllm": "vllm", "hf": "transformers"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A file or folder that the run reads."""

    key: str
    """The option that names it."""
    path: str
    state: Literal["here", "on the hub", "to be made", "missing"]
    command: str = ""
    """What makes it, where it is to be made."""


def check_options(options: RunOptions) -> None:
    """Checks everything that needs no file.

    Raises:
        InputError: with every problem found.
    """
    problems = [
        *_batch_problems(options),
        *_sampling_problems(options),
        *_engine_problems(options),
    ]
    if problems:
        raise InputError("config: " + "; ".join(problems))


def find_inputs(options: RunOptions) -> list[Input]:
    """Where each input stands."""
    named = [
        ("model.path", options.model.path),
        ("dataset.train", options.dataset.train),
        ("dataset.eval", options.dataset.eval),
        ("retrieval.index", options.retrieval.index),
    ]
    return [_find(key, path, options) for key, path in named if path is not None]


def check_inputs_exist(inputs: Sequence[Input]) -> None:
    """Raises an InputError that names every input which is missing and cannot be made."""
    missing = [f"{i.key}: '{i.path}' does not exist" for i in inputs if i.state == "missing"]
    if missing:
        raise InputError("; ".join(missing) + ". Check the path, or override the key")


def load_tokenizer(path: str, revision: str | None = None) -> "PreTrainedTokenizerBase":
    """A model's tokenizer.

    Raises:
        InputError: `path` is no folder with a tokenizer, and no reachable hub name.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, revision=revision)
    except (OSError, ValueError) as error:
        raise InputError(
            f"model.path: no tokenizer in '{path}', neither as a local folder nor on "
            f"the Hugging Face hub ({str(error).splitlines()[0]})"
        ) from error
    return tokenizer


def make_renderer(options: RunOptions, model_path: str | None = None) -> PromptRenderer:
    """The prompts as the rollouts will render them, for the run's model or another one."""
    if model_path is None:
        tokenizer = load_tokenizer(options.model.path, options.model.revision)
    else:
        tokenizer = load_tokenizer(model_path)
    return PromptRenderer(
        tokenizer,
        Protocol(options.prompt.protocol),
        options.prompt,
        max_prompt_tokens=options.rollout.max_prompt_tokens,
    )


def load_checked(path: str, renderer: PromptRenderer) -> list[Question]:
    """Questions that all have a template and a prompt within the limit."""
    questions = load_questions(path)
    for question in questions:
        for retrieval in (True, False):
            renderer.prompt(question, retrieval)
    return questions


def _find(key: str, path: str, options: RunOptions) -> Input:
    if Path(path).exists():
        return Input(key=key, path=path, state="here")
    commands = {made: step.command for step in options.prepare for made in step.makes}
    if path in commands:
        return Input(key=key, path=path, state="to be made", command=commands[path])
    if key == "model.path" and HUB_NAME.fullmatch(path):
        return Input(key=key, path=path, state="on the hub")
    return Input(key=key, path=path, state="missing")


def _batch_problems(options: RunOptions) -> Iterator[str]:
    groups, samples = options.trainer.questions_per_step, options.rollout.samples_per_prompt
    shares = options.policy.updates_per_rollout * options.policy.num_ranks
    if groups * samples % shares:
        yield (
            f"{groups} questions x {samples} samples = {groups * samples} trajectories per step do "
            f"not divide by policy.updates_per_rollout x policy.num_ranks = {shares}; change "
            "trainer.questions_per_step or rollout.samples_per_prompt"
        )
    if options.algorithm.estimator in GROUP_RELATIVE and samples < 2:
        yield (
            f"algorithm.estimator '{options.algorithm.estimator}' compares the samples of a group: "
            "rollout.samples_per_prompt must be at least 2"
        )


def _sampling_problems(options: RunOptions) -> Iterator[str]:
    sampling = options.rollout.sampling
    if sampling.temperature <= 0:
        yield "rollout.sampling.temperature must be above 0 in training"
    if sampling.top_p != 1.0 or sampling.top_k != 0:
        yield (
            "rollout.sampling.top_p must be 1 and top_k 0 in training: the policy's logprobs are "
            "those of the whole distribution (rollout.eval_sampling may cut it)"
        )


def _engine_problems(options: RunOptions) -> Iterator[str]:
    engine = options.rollout.engine.name
    if importlib.util.find_spec(ENGINE_MODULES[engine]) is None:
        yield f"engine '{engine}' is not installed: run scripts/setup.sh, or pass engine=hf"


def buckets(questions: Sequence[Question]) -> dict[str, int]:
    """How many questions each bucket has."""
    return dict(sorted(Counter(question.bucket for question in questions).items()))

"""Checks before any work: of options, of this machine, and of the inputs that options name."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

from ur2.config.problems import STAGES, option_problems
from ur2.config.roles import role_problems
from ur2.config.schema import InferenceOptions, RunOptions
from ur2.datasets import load_questions
from ur2.datasets.matching import without_overlap
from ur2.datasets.sources import local_path
from ur2.environments.game import Game
from ur2.environments.toolbox.box import Toolbox
from ur2.errors import InputError
from ur2.processor import warn_if_emulated
from ur2.prompts.dialect import Dialect
from ur2.retrieval.manifest import load_manifest
from ur2.rewards.options import RewardOptions
from ur2.rewards.rubric import Rubric
from ur2.rollout.engines.factory import check_installed
from ur2.rollout.exploration import ExplorerKind
from ur2.rollout.openings import NoKnowledge, Openings, check_observations, make_services
from ur2.rollout.worker import make_renderer
from ur2.trainer.cluster.placement import Demand
from ur2.trainer.credit import credit_rule
from ur2.trainer.options import ClusterOptions
from ur2.types import Question

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A file or folder that the run reads."""

    key: str
    """The option that names it."""
    path: str
    state: Literal["here", "on the hub", "to be made", "missing"]
    command: str = ""
    """The command that makes it, where it is to be made."""


def check_options(options: RunOptions) -> None:
    """Checks everything that needs no file.

    Raises:
        InputError: with every problem found.
    """
    _refuse(option_problems(options))
    _refuse(role_problems(options, Game.load(options.environment).roles))
    credit_rule(options.algorithm.credit)
    ExplorerKind.load(options.exploration)
    for reward in (options.reward, *options.rewards.values()):
        Rubric.from_options(reward, Dialect(options.prompt.protocol))
    check_installed(options.rollout.engine)


def _refuse(problems: Iterable[str]) -> None:
    if found := "; ".join(problems):
        raise InputError(f"config: {found}")


def check_machine(options: RunOptions) -> None:
    """Raises an InputError where the run wants more GPUs than a local cluster will have."""
    check_gpus(num_gpus(options), options.cluster)
    if options.policy.precision == "bf16" and not options.cluster.num_gpus_per_policy_rank:
        warn_if_emulated("bfloat16", key="policy.precision=bf16")


def check_gpus(wanted: int, cluster: ClusterOptions) -> None:
    """Raises an InputError where a local cluster will not have `wanted` GPUs."""
    if cluster.address != "local" or not wanted:
        return
    import torch

    if wanted > torch.cuda.device_count():
        raise InputError(
            f"this run wants {wanted} GPUs and this machine has {torch.cuda.device_count()}: join "
            "a cluster with cluster.address=auto, or choose another cluster=... "
            "(dry_run=true prints the plan anyway)"
        )


def num_gpus(options: RunOptions) -> int:
    """GPUs of all policy ranks and rollout workers."""
    demand = Demand(
        options=options.cluster,
        num_ranks=options.policy.num_ranks,
        num_engines=options.rollout.num_workers,
    )
    return demand.num_gpus


def find_inputs(options: RunOptions) -> list[Input]:
    """Where each input stands."""
    named = [
        ("model.path", options.model.path),
        ("dataset.train", options.dataset.train),
        ("dataset.eval", options.dataset.eval),
        *((f"{STAGES}.{s.name}.questions", s.questions) for s in options.curriculum.stages),
        *own_indexes(options).items(),
    ]
    return [find_input(key, path, options) for key, path in named if path is not None]


def check_inputs_exist(inputs: Sequence[Input]) -> None:
    """Raises an InputError that names every input which is missing and cannot be made."""
    missing = [f"{i.key}: '{i.path}' does not exist" for i in inputs if i.state == "missing"]
    if missing:
        raise InputError("; ".join(missing) + ". Check the path, or override the key")


def make_openings(options: InferenceOptions) -> Openings:
    """The prompts as the rollouts will render them.

    Raises:
        InputError: the model has no tokenizer, or one without a chat template; or there is no such
            environment or tool, or no document fits into an observation.
    """
    model = options.model
    renderer = make_renderer(options.rollout, options.prompt, model.path, model.revision)
    game = Game.load(options.environment)
    check_observations(renderer, game)
    toolbox = Toolbox(options.environment.toolbox)
    make_services(renderer, game, toolbox, NoKnowledge())
    return Openings(renderer=renderer, game=game, options=options.rollout, toolbox=toolbox)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInputs:
    """Questions that a run reads before it starts."""

    train: list[Question]
    held_out: list[Question]
    stages: dict[str, list[Question]]
    """By stage of the curriculum, where it has questions of its own."""

    @property
    def drawn(self) -> list[Question]:
        """All that the curriculum may draw."""
        return [*self.train, *chain.from_iterable(self.stages.values())]


def load_inputs(options: RunOptions) -> RunInputs:
    """Reads and checks everything that the run will need.

    Raises:
        InputError: a file is missing or wrong, a question has no template, grader or room in the
            prompt, or the model is too short for the budgets.
    """
    check_inputs_exist(find_inputs(options))
    check_indexes(options)
    check_model_length(options)
    openings = make_openings(options)

    def read(path: str, reward: RewardOptions) -> list[Question]:
        questions = load_checked(path, openings)
        Rubric.from_options(reward, openings.renderer.wording.dialect).check(questions)
        return questions

    held_out = read(options.dataset.eval, options.reward) if options.dataset.eval else []

    def read_train(path: str, reward: RewardOptions) -> list[Question]:
        questions = read(path, reward)
        return (
            without_overlap(questions, held_out) if options.dataset.exclude_overlap else questions
        )

    return RunInputs(
        train=read_train(options.dataset.train, options.reward),
        held_out=first_of_each(held_out, options.dataset.eval_per_bucket),
        stages={
            stage.name: read_train(stage.questions, options.reward_of(stage.reward))
            for stage in options.curriculum.stages
            if stage.questions is not None
        },
    )


def first_of_each(questions: Sequence[Question], per_bucket: int | None) -> list[Question]:
    """The first `per_bucket` questions of each bucket, in file order."""
    seen: Counter[str] = Counter()
    chosen = []
    for question in questions:
        seen[question.bucket] += 1
        if per_bucket is None or seen[question.bucket] <= per_bucket:
            chosen.append(question)
    return chosen


def load_checked(path: str, openings: Openings) -> list[Question]:
    """Questions that all have a template and a prompt within the limit."""
    questions = load_questions(path)
    for question in questions:
        for retrieval in (True, False):
            openings.prompt(question, retrieval)
    return questions


def own_indexes(options: InferenceOptions) -> dict[str, str]:
    """Key and folder of each index that the run's own retrieval service opens."""
    retrieval = options.retrieval
    if retrieval.backend != "actor":
        return {}
    folders = {f"retrieval.indexes.{name}": path for name, path in retrieval.indexes.items()}
    return folders | ({"retrieval.index": retrieval.index} if retrieval.index is not None else {})


def check_indexes(options: InferenceOptions) -> None:
    """Raises an InputError where an index of the run's own service cannot be read."""
    for folder in own_indexes(options).values():
        load_manifest(Path(folder))


def check_model_length(options: InferenceOptions) -> None:
    """Raises an InputError where there is no model, or one of too few positions for the budgets."""
    from transformers import AutoConfig

    path = options.model.path
    try:
        config = AutoConfig.from_pretrained(path, revision=options.model.revision)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"model.path '{path}' is no model at hand ({reason}); give a folder with config.json, "
            "or a Hugging Face name that can be fetched from here"
        ) from error
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    if longest is not None and options.rollout.max_model_len > longest:
        raise InputError(
            f"rollout.max_prompt_tokens + rollout.max_tokens = {options.rollout.max_model_len} is "
            f"more than the {longest} positions of '{path}'"
        )


def find_input(key: str, path: str, options: InferenceOptions) -> Input:
    """Where the input that option `key` names stands."""
    file = local_path(path) if key.startswith(("dataset.", STAGES)) else path
    if file is not None and Path(file).exists():
        return Input(key=key, path=path, state="here")
    commands = {made: step.command for step in options.prepare for made in step.makes}
    if file in commands:
        return Input(key=key, path=path, state="to be made", command=commands[file])
    if file is None or (key == "model.path" and HUB_NAME.fullmatch(path)):
        return Input(key=key, path=path, state="on the hub")
    return Input(key=key, path=path, state="missing")


def buckets(questions: Sequence[Question]) -> dict[str, int]:
    """How many questions each bucket has."""
    return dict(sorted(Counter(question.bucket for question in questions).items()))

"""The whole tree of options, composed from the stages' own."""

from typing import Literal

from pydantic import Field

from ur2.algorithms.options import AlgorithmOptions
from ur2.benchmarks.options import AverageOptions, BenchmarkOptions
from ur2.curriculum.options import CurriculumOptions, LevelOptions
from ur2.environments.options import EnvironmentOptions
from ur2.options import Options
from ur2.policy.options import PolicyOptions
from ur2.prompts.options import PromptOptions
from ur2.retrieval.options import RetrievalOptions
from ur2.rewards.options import JudgeOptions, RewardOptions
from ur2.rollout.exploration import ExplorationOptions
from ur2.rollout.options import RolloutOptions
from ur2.trainer.options import (
    ClusterOptions,
    ColdstartOptions,
    DatasetOptions,
    ModelOptions,
    PrepareOptions,
    TrainerOptions,
)


class InferenceOptions(Options):
    """Options of answering questions, in training and in evaluation."""

    seed: int = Field(0, ge=0)
    """Seed of the curriculum, of sampling and of resampling."""
    prepare: tuple[PrepareOptions, ...] = ()
    """Inputs that can be made by a command."""
    model: ModelOptions
    prompt: PromptOptions
    environment: EnvironmentOptions
    retrieval: RetrievalOptions
    rollout: RolloutOptions
    cluster: ClusterOptions


class RunOptions(InferenceOptions):
    """One run."""

    experiment: str
    """A name; it starts the run directory's."""
    run_dir: str | None = None
    """Where the run leaves everything; by default runs/<experiment>/<time>."""
    resume: str = "auto"
    """`auto` continues the newest unfinished run of this config, `none` starts anew, or the path of
    a checkpoint."""
    dry_run: bool = False
    """Check everything, print the plan, start nothing."""
    dataset: DatasetOptions
    curriculum: CurriculumOptions
    reward: RewardOptions
    rewards: dict[str, RewardOptions] = Field(default_factory=dict)
    """Further rewards by name, for stages of the curriculum that have one of their own."""
    exploration: ExplorationOptions
    algorithm: AlgorithmOptions
    policy: PolicyOptions
    trainer: TrainerOptions
    coldstart: ColdstartOptions | None = None

    def reward_of(self, name: str | None) -> RewardOptions:
        """The reward that a stage names; None is the run's."""
        return self.reward if name is None else self.rewards[name]


class EvaluationOptions(InferenceOptions):
    """One evaluation of one checkpoint."""

    checkpoint: str
    """A run directory, a checkpoint in one, a model folder, a Hugging Face name, or the name that a
    remote endpoint serves."""
    benchmarks: dict[str, BenchmarkOptions] = Field(default_factory=dict)
    """The benchmarks to measure, by key."""
    averages: dict[str, AverageOptions] = Field(default_factory=dict)
    """Means over benchmarks, by key."""
    data_dir: str = "data/ur2"
    """Where the question files lie; scripts/download_data.sh fetches them."""
    out: str | None = None
    """Where results go; by default runs/evaluation/<checkpoint>. What is there is continued."""
    search: bool = True
    """Whether the policy may search; false asks with the prompts for no search and starts no
    retriever."""
    limit: int | None = Field(None, ge=1)
    """Play only this many questions of each benchmark, from the first."""
    retry_failures: bool = False
    """Play questions again whose search failed, or whose judge gave no verdict, in what is
    continued."""
    judge: JudgeOptions = JudgeOptions(tasks=("qa", "math"), unscored="fail")
    """The language model behind `judge` metrics, reported as not judged without its `url` or a
    verdict; `tasks`, `unscored` and `grades` are training's and do nothing here."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Arithmetic of a local engine."""
    experiment: str | None = None
    """The experiment whose prompts, budgets and retriever are used, if one was named."""
    dry_run: bool = False
    """Check everything, print the plan, start nothing."""


class DifficultyOptions(InferenceOptions):
    """One measurement of how hard the training questions are for a policy."""

    experiment: str
    """The experiment whose model, questions, prompts, budgets, retriever and graders are used."""
    dataset: DatasetOptions
    """`train` is measured."""
    reward: RewardOptions
    """Its graders decide what is solved."""
    out: str
    """The folder of results. What is there is continued."""
    checkpoint: str | None = None
    """A run directory, a checkpoint in one, or a model folder; None: `model.path`."""
    samples: int = Field(20, ge=1)
    """Rollouts of each question in each mode; the report tells how many levels are in doubt."""
    with_retrieval: bool = False
    """Also play with retrieval, and report what it adds."""
    levels: LevelOptions = LevelOptions()
    """Which pass rate makes which level."""
    confidence: float = Field(0.95, gt=0, lt=1)
    """The coverage of the intervals."""
    limit: int | None = Field(None, ge=1)
    """Only this many questions, from the first."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Arithmetic of a local engine."""
    dry_run: bool = False
    """Check everything, start nothing."""

"""The whole tree of options, composed from the stages' own."""

from pydantic import Field

from ur2.algorithms.options import AlgorithmOptions
from ur2.curriculum.options import CurriculumOptions
from ur2.options import Options
from ur2.policy.options import PolicyOptions
from ur2.prompts.options import PromptOptions
from ur2.retrieval.options import RetrievalOptions
from ur2.rewards.options import RewardOptions
from ur2.rollout.options import RolloutOptions
from ur2.trainer.options import (
    ClusterOptions,
    ColdstartOptions,
    DatasetOptions,
    ModelOptions,
    PrepareOptions,
    TrainerOptions,
)


class RunOptions(Options):
    """One run."""

    experiment: str
    """A name; it starts the run directory's."""
    seed: int = Field(0, ge=0)
    """Seed of the curriculum and of sampling."""
    run_dir: str | None = None
    """Where the run leaves everything; by default runs/<experiment>/<time>."""
    resume: str = "auto"
    """`auto` continues the newest unfinished run of this config, `none` starts anew, or the path of
    a checkpoint."""
    dry_run: bool = False
    """Check everything, print the plan, start nothing."""
    prepare: tuple[PrepareOptions, ...] = ()
    """Inputs that can be made by a command."""
    model: ModelOptions
    dataset: DatasetOptions
    prompt: PromptOptions
    curriculum: CurriculumOptions
    retrieval: RetrievalOptions
    rollout: RolloutOptions
    reward: RewardOptions
    algorithm: AlgorithmOptions
    policy: PolicyOptions
    trainer: TrainerOptions
    cluster: ClusterOptions
    coldstart: ColdstartOptions | None = None

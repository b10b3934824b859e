"""Options of the loop, the cluster and the cold start."""

from typing import Literal

from ur2.options import Options
from ur2.policy.options import PolicyOptions
from ur2.policy.scratch import ScratchOptions


class ShapeOptions(Options):
    """The size of a model, as its config.json tells it."""

    num_parameters: int
    """Weights in all, shared ones once."""
    num_layers: int
    """Transformer layers."""
    hidden_size: int
    """Width of the residual stream."""
    num_kv_heads: int
    """Key and value heads."""
    head_dim: int
    """Width of a head."""
    vocab_size: int
    """Rows of the LM head."""


class ModelOptions(Options):
    """The language model that is trained."""

    path: str
    """A Hugging Face name or a local folder."""
    revision: str | None = None
    """A commit or tag of a Hugging Face name."""
    max_length: int = 4096
    """Longest context in tokens, prompt included."""
    shape: ShapeOptions | None = None
    """For the dry run's estimates where the model is not at hand."""


class DatasetOptions(Options):
    """Question files."""

    train: str
    """Questions to learn from."""
    eval: str | None = None
    """Held-out questions for the measurements before, during and after."""
    eval_per_bucket: int | None = None
    """Held-out questions per bucket; all by default."""
    exclude_overlap: bool = False
    """Leave out training questions that match held-out ones, exactly or nearly."""


class TrainerOptions(Options):
    """How long to train, and what to leave behind."""

    steps: int
    """Rollout-and-update steps in all."""
    questions_per_step: int
    """Groups per step; each has `rollout.samples_per_prompt` trajectories."""
    filter_zero_variance: bool = True
    """Leave out groups whose rewards are all equal, under estimators that compare a group's
    samples: such groups carry no signal there."""
    eval_every: int = 0
    """Steps between held-out measurements; 0 measures only before and after."""
    eval_retrieval: bool = True
    """Whether held-out questions are answered with retrieval on."""
    checkpoint_every: int = 10
    """Steps between checkpoints; the last step always has one."""
    keep_checkpoints: int = 2
    """Newest checkpoints to keep."""
    dump_trajectories: bool = True
    """Write each step's trajectories, compressed."""
    trackers: tuple[Literal["wandb", "tensorboard"], ...] = ()
    """Where metrics go besides metrics.jsonl."""
    wandb_project: str = "ur2"
    """The project on wandb."""
    wandb_mode: Literal["online", "offline"] = "online"
    """`offline` writes to the run directory; `wandb sync` uploads later."""


class ClusterOptions(Options):
    """Where the workers run."""

    address: str = "local"
    """`local` starts ray here; `auto` or host:port joins a running cluster."""
    num_gpus_per_policy_rank: int = 0
    """GPUs of one policy rank."""
    num_gpus_per_rollout_worker: int = 0
    """GPUs of one rollout worker, its tensor-parallel size."""
    gpu_memory_gib: float | None = None
    """Memory of one GPU, which the dry run compares with its estimate."""
    object_store_bytes: int | None = None
    """Ray's object store of a local cluster; ray's own default otherwise."""
    weights_dir: str | None = None
    """Where weights pass from policy to engines: a memory file system on one node, a shared folder
    on several. By default /dev/shm where there is one."""
    start_timeout_s: float = 600.0
    """Longest wait for a worker to start."""
    call_timeout_s: float = 1800.0
    """Longest wait for one call to a policy rank; past it the run stops with a checkpoint."""


class PhaseOptions(Options):
    """One phase of supervised training."""

    demonstrations: str
    """A file of demonstrations."""
    epochs: float = 1.0
    """Passes over the file."""
    batch_size: int = 32
    """Demonstrations per optimizer step."""
    policy: PolicyOptions = PolicyOptions()
    """Optimizer and sharding of this phase."""


class ColdstartOptions(Options):
    """Supervised training on demonstrations, before RL."""

    out: str
    """The model folder to make."""
    seed: int = 0
    """Seed of initial weights and shuffling; apart from the run's, so that seeds share a start."""
    scratch: ScratchOptions | None = None
    """Make the model from nothing; otherwise `base` is trained on."""
    scratch_texts: tuple[str, ...] = ()
    """Files whose text trains the tokenizer of a model made from nothing."""
    base: str | None = None
    """A Hugging Face name or folder to start from."""
    phases: tuple[PhaseOptions, ...]
    """Run one after another."""


class PrepareOptions(Options):
    """Inputs that a run needs and the command that makes them."""

    makes: tuple[str, ...]
    """The paths that the command makes."""
    command: str
    """`python -m ur2…` commands run by themselves; others are shown to the user."""

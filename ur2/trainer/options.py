"""Options of the loop, the cluster and the cold start."""

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from ur2.options import Options
from ur2.policy.model.scratch import ScratchOptions
from ur2.policy.options import PolicyOptions
from ur2.trainer.teacher_options import TeacherOptions


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
    eval_per_bucket: int | None = Field(None, ge=1)
    """Held-out questions per bucket; all by default."""
    exclude_overlap: bool = False
    """Leave out training questions that match held-out ones, exactly or nearly."""


class TrainerOptions(Options):
    """How long to train, and what to leave behind."""

    steps: int = Field(ge=0)
    """Rollout-and-update steps in all."""
    questions_per_step: int = Field(ge=1)
    """Groups per step; each has `rollout.samples_per_prompt` trajectories."""
    filter_zero_variance: bool = True
    """Leave out groups whose rewards are all equal, under estimators that compare a group's
    samples: such groups carry no signal there."""
    max_refills: int = Field(0, ge=0)
    """Groups that a step may draw in the place of those it leaves out, so that every update sees
    `questions_per_step` groups; 0 updates on what is left."""
    mode: Literal["sync", "one_step_off", "async"] = "sync"
    """`sync`: nothing is sampled while the policy is updated. `one_step_off`: the next step's
    groups are sampled meanwhile, each under one version of the weights. `async`: engines never
    wait, and take new weights in the middle of a trajectory."""
    max_staleness: int = Field(1, ge=0)
    """In mode `async`, versions by which a group's first weights may lag behind those it updates;
    0 is `sync`."""
    num_extra_groups: int = Field(0, ge=0)
    """Groups in play beyond those that a step needs, at most as many; a step takes what finishes
    first, and what becomes of the tail is `tail`'s."""
    tail: Literal["carry_on", "give_up"] = "carry_on"
    """The fate of `num_extra_groups`: `carry_on` goes on under the next weights and counts for the
    next step, by when it may be one version staler than the mode allows; `give_up` (mode `sync`)
    stops them and plays them anew in the next step."""
    eval_every: int = Field(0, ge=0)
    """Steps between held-out measurements; 0 measures only before and after."""
    eval_retrieval: bool | Literal["curriculum"] = True
    """Whether held-out questions are answered with retrieval on; `curriculum`: where that would."""
    checkpoint_every: int = Field(10, ge=0)
    """Steps between checkpoints, 0 for none; the last step always has one."""
    keep_checkpoints: int = Field(2, ge=1)
    """Newest checkpoints to keep."""
    dump_trajectories: bool = True
    """Write each step's trajectories, compressed."""
    trackers: tuple[Literal["wandb", "tensorboard"], ...] = ()
    """Where metrics go besides metrics.jsonl."""
    wandb_project: str = "ur2"
    """The project on wandb."""
    wandb_mode: Literal["online", "offline"] = "online"
    """`offline` writes to the run directory; `wandb sync` uploads later."""

    @property
    def staleness(self) -> int:
        """Versions by which sampling may run ahead of the update, η."""
        return {"sync": 0, "one_step_off": 1, "async": self.max_staleness}[self.mode]

    @model_validator(mode="after")
    def _extra_groups_make_sense(self) -> Self:
        if self.num_extra_groups > self.questions_per_step:
            raise ValueError("num_extra_groups is at most questions_per_step")
        if self.tail == "give_up" and (self.mode != "sync" or not self.num_extra_groups):
            raise ValueError("tail=give_up needs mode=sync and num_extra_groups above 0")
        return self


class ClusterOptions(Options):
    """Where the workers run."""

    address: str = "local"
    """`local` starts ray here; `auto` or host:port joins a running cluster."""
    placement: Literal["disaggregated", "colocated"] = "disaggregated"
    """`disaggregated`: policy and engines have GPUs of their own. `colocated`: each engine runs on
    the GPUs of some policy ranks and sleeps while they compute (`trainer.mode=sync`)."""
    num_gpus_per_policy_rank: int = Field(0, ge=0)
    """GPUs of one policy rank."""
    num_gpus_per_rollout_worker: int = Field(0, ge=0)
    """GPUs of one rollout worker, its tensor-parallel size; they are on one node."""
    num_cpus_per_policy_rank: float = Field(0.0, ge=0.0)
    """CPUs that ray sets aside for one policy rank; what needs neither these nor GPUs runs on the
    node where training was started."""
    num_cpus_per_rollout_worker: float = Field(0.0, ge=0.0)
    """CPUs that ray sets aside for one rollout worker."""
    gpu_memory_gib: float | None = None
    """Memory of one GPU, which the dry run compares with its estimate."""
    object_store_bytes: int | None = Field(None, ge=75 << 20)
    """Ray's object store here or, in a launch, on each node; by default as large as ray chooses."""
    weights_dir: str | None = None
    """Where weights pass from policy to engines: a memory file system on one node, a shared folder
    on several. By default /dev/shm where there is one."""
    start_timeout_s: float = Field(600.0, gt=0.0)
    """Longest wait for a worker to start."""
    call_timeout_s: float = Field(1800.0, gt=0.0)
    """Longest wait for one call to a policy rank; past it the run stops with a checkpoint."""

    @field_validator("address")
    @classmethod
    def _address_is_one(cls, address: str) -> str:
        if address not in ("local", "auto") and not re.fullmatch(r"[^\s/]+:\d+", address):
            raise ValueError("write local, auto or host:port")
        return address


class PhaseOptions(Options):
    """One phase of supervised training."""

    demonstrations: str
    """A file of demonstrations."""
    epochs: float = Field(1.0, gt=0.0)
    """Passes over the file."""
    batch_size: int = Field(32, ge=1)
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
    scratch_lines: tuple[str, ...] = ()
    """Further texts for it, such as the labels of an environment; each counts a thousand times."""
    base: str | None = None
    """A Hugging Face name or folder to start from."""
    teacher: TeacherOptions | None = None
    """A model whose episodes are demonstrations; it plays before the phases are trained."""
    phases: tuple[PhaseOptions, ...]
    """Run one after another; none, with a teacher, makes its demonstrations alone."""


class PrepareOptions(Options):
    """Inputs that a run needs and the command that makes them."""

    makes: tuple[str, ...]
    """The paths that the command makes."""
    command: str
    """`python -m ur2…` commands run by themselves; others are shown to the user."""

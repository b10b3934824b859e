"""Options of the policy update."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from ur2.options import Options
from ur2.transfer.choice import WeightTransfer

Decay = Annotated[float, Field(ge=0.0, lt=1.0)]


class LoraOptions(Options):
    """Low-rank adapters that are trained in place of the weights."""

    rank: int = Field(default=16, ge=1)
    """Rank of what is added to each matrix."""
    alpha: float = Field(default=32.0, gt=0.0)
    """The adapters' product is scaled by alpha / rank."""
    targets: tuple[str, ...] = ()
    """Names of linear layers, such as q_proj; none for all but the LM head."""


class PolicyOptions(Options):
    """How the model is updated, and how the work is spread over ranks."""

    num_ranks: int = Field(default=1, ge=1)
    """Data-parallel processes, one per GPU where there are GPUs."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """DeepSpeed shards over ranks: 1 optimizer states, 2 also gradients, 3 also weights."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16` keeps bf16 weights with fp32 masters (stages 2 and 3), or computes in bf16 on fp32
    weights (stage 0). A processor without units for it takes tens of times as long, and is told."""
    offload: Literal["none", "cpu"] = "none"
    """Keep optimizer states in host memory (needs a GPU and zero_stage of at least 1)."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon` orthogonalises the updates of hidden matrices; the rest gets AdamW (zero_stage 0)."""
    learning_rate: float = Field(default=1e-6, gt=0.0)
    """The rate of AdamW: all parameters, or all but the hidden matrices under `muon`."""
    critic_learning_rate: float = Field(default=1e-5, gt=0.0)
    """The rate of the critic (`algorithm.estimator=gae`), which always has AdamW; warmup and
    schedule are the policy's."""
    muon_learning_rate: float = Field(default=0.02, gt=0.0)
    """The rate of `muon`, for the hidden matrices."""
    adam_betas: tuple[Decay, Decay] = (0.9, 0.95)
    """Decay of AdamW's first and second moment."""
    adam_eps: float = Field(default=1e-8, gt=0.0)
    """Added to AdamW's denominator."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """Decoupled decay of matrices; vectors (norms, biases) have none."""
    warmup_steps: int = Field(default=0, ge=0)
    """Optimizer steps over which learning rates rise linearly from 0."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How learning rates fall to 0 at the last step."""
    decay_start: float = Field(default=0.0, ge=0.0, lt=1.0)
    """`linear` and `cosine`: the share of all steps before learning rates begin to fall."""
    max_grad_norm: float = Field(default=1.0, ge=0.0)
    """Gradients with a larger norm are scaled down to it; 0 never does."""
    updates_per_rollout: int = Field(default=1, ge=1)
    """Optimizer steps that one batch of trajectories is split into."""
    max_tokens_per_microbatch: int = Field(default=4096, ge=1)
    """Tokens of the sequences packed into one forward pass; a longer sequence goes alone."""
    logprob_chunk_tokens: int = Field(default=1024, ge=1)
    """Tokens whose logits exist at the same time."""
    gradient_checkpointing: bool = False
    """Recompute each layer in the backward pass instead of keeping its activations."""
    lora: LoraOptions | None = None
    """Train low-rank adapters and freeze the weights; engines get merged weights."""
    liger_kernels: bool = False
    """Fused norms, rotary embeddings and MLPs (needs a GPU and the package liger-kernel)."""
    weight_transfer: WeightTransfer = "files"
    """How engines get the weights. `files`: written to cluster.weights_dir and read from there;
    `nccl`: broadcast from GPU to GPU; `ipc`: read from the memory of a GPU that both are on; `tcp`:
    sent between CPUs, for nodes that share no folder. `auto`: `ipc` where they share GPUs, `nccl`
    where they have some each, `files` elsewhere. All but `files` need vllm; `nccl` and `ipc` have
    not been run yet, and are not the default for that reason."""
    verify_weights: Literal["first", "always", "never"] = "first"
    """Which syncs engines verify, tensor by tensor, against checksums that the policy takes;
    `first`: two, since vllm takes a shorter way from the second on, and two after a restart."""
    num_threads: int = Field(default=1, ge=1)
    """CPU threads of one rank."""
    deepspeed_overrides: dict[str, JsonValue] = Field(default_factory=dict)
    """Merged over the DeepSpeed configuration that these options make; for experts."""

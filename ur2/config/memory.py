"""How much memory a run needs per GPU, and disk, estimated before anything starts.

Departures from what a run will measure: fragmentation, CUDA contexts and the workspace of kernels
are not counted; a few GiB per GPU should stay free.
"""

from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage

from ur2.algorithms.options import AlgorithmOptions
from ur2.config.schema import RunOptions
from ur2.errors import InputError
from ur2.policy.deepspeed_config import MAX_BUCKET_ELEMENTS, shards_bf16
from ur2.policy.options import LoraOptions, PolicyOptions
from ur2.trainer.options import ShapeOptions

GIB = 2**30
ADAM_STATE_BYTES = 8
"""Two fp32 moments per parameter."""
MASTER_BYTES = 4
ACTIVATION_UNITS = 34
"""Bytes per token and unit of width that one layer keeps in 16 bit, attention scores not counted
(Korthikanti et al. 2022, section 4.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyMemory:
    """Bytes of one policy rank."""

    weights: float
    gradients: float
    optimizer: float
    buckets: float
    """Buffers in which gradients and weights travel between ranks."""
    activations: float
    """Activations of one full microbatch."""
    logits: float
    """Logits of one chunk of the LM head, with their gradient."""
    side_models: float
    """The reference model's weights, and all of the critic but its activations."""

    @property
    def resident(self) -> float:
        """The share that stays while engines sample."""
        return self.weights + self.side_models + self.optimizer + self.buckets

    @property
    def total(self) -> float:
        """All of them, as they stand together in a backward pass."""
        return self.resident + self.gradients + self.activations + self.logits


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMemory:
    """Bytes of one GPU of a rollout worker."""

    weights: float
    kv_cache_per_token: float
    kv_cache_per_sequence: float
    """Keys and values of one sequence of the longest context."""


def find_shape(options: RunOptions) -> tuple[ShapeOptions, str] | None:
    """The model's size and where it is known from: its own config.json, or `model.shape`."""
    if (Path(options.model.path) / "config.json").exists():
        return shape_of(options.model.path), "config.json"
    if options.model.shape is not None:
        return options.model.shape, "model.shape"
    return None


def shape_of(folder: str) -> ShapeOptions:
    """Reads a model folder's config.json and counts its weights without making any.

    Raises:
        InputError: it is not the config of a causal language model.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            num_parameters = AutoModelForCausalLM.from_config(config).num_parameters()
    except (OSError, ValueError) as error:
        raise InputError(f"model.path '{folder}': {error}") from error
    text = config.get_text_config()
    heads = text.num_attention_heads
    return ShapeOptions(
        num_parameters=num_parameters,
        num_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        num_kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        vocab_size=text.vocab_size,
    )


def policy_memory(
    shape: ShapeOptions, options: PolicyOptions, algorithm: AlgorithmOptions
) -> PolicyMemory:
    """The most that one policy rank holds (stages: Rajbhandari et al. 2020, section 5)."""
    stage, ranks = options.zero_stage, options.num_ranks
    computes_in_16_bit = options.precision == "bf16"
    bytes_per_weight = 2 if shards_bf16(options) else 4
    masters = MASTER_BYTES if stage else 0
    count = shape.num_parameters
    trained = count if options.lora is None else _adapter_parameters(shape, options.lora)
    weights = count * bytes_per_weight / (ranks if stage == 3 else 1)
    gradients = trained * 4 / (ranks if stage >= 2 else 1)
    states = trained * (ADAM_STATE_BYTES + masters) / (ranks if stage else 1)
    optimizer = 0.0 if options.offload == "cpu" else states
    side_models = weights if algorithm.kl_coef and options.lora is None else 0.0
    if algorithm.has_critic:
        side_models += weights + gradients + optimizer
    return PolicyMemory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        side_models=side_models,
        buckets=2 * min(trained, MAX_BUCKET_ELEMENTS) * bytes_per_weight if stage else 0,
        activations=_activations(shape, options) * (1 if computes_in_16_bit else 2),
        logits=2 * 4 * options.logprob_chunk_tokens * shape.vocab_size,
    )


def engine_memory(shape: ShapeOptions, options: RunOptions) -> EngineMemory:
    """The memory that one GPU of a rollout worker needs, in the policy's precision."""
    parallel = options.rollout.engine.tensor_parallel_size
    width = 2 if options.policy.precision == "bf16" else 4
    kv_heads = max(1.0, shape.num_kv_heads / parallel)  # fewer heads than GPUs are copied
    per_token = 2 * shape.num_layers * kv_heads * shape.head_dim * width
    return EngineMemory(
        weights=shape.num_parameters * width / parallel,
        kv_cache_per_token=per_token,
        kv_cache_per_sequence=per_token * options.rollout.max_model_len,
    )


def kv_cache_bytes(engine: EngineMemory, options: RunOptions) -> float | None:
    """Room for the KV cache; None where the GPU's memory is not given."""
    if options.cluster.num_gpus_per_rollout_worker == 0:
        return options.rollout.engine.kv_cache_gib * GIB
    if options.cluster.gpu_memory_gib is None:
        return None
    usable = options.cluster.gpu_memory_gib * options.rollout.engine.gpu_memory_utilization
    return max(0.0, usable * GIB - engine.weights)


def checkpoint_bytes(
    shape: ShapeOptions, options: PolicyOptions, algorithm: AlgorithmOptions
) -> float:
    """One checkpoint: the exported model, and weights and states of what is trained, in fp32."""
    count = shape.num_parameters
    trained = count if options.lora is None else _adapter_parameters(shape, options.lora)
    states = trained * (MASTER_BYTES + ADAM_STATE_BYTES)
    exported = count * (2 if options.precision == "bf16" else 4)
    return exported + states * (2 if algorithm.has_critic else 1)


def check_disk(options: RunOptions, folder: Path) -> None:
    """Raises an InputError where the checkpoints of a run will not fit beside each other.

    Of a model that is not at hand nothing is known.
    """
    found = find_shape(options)
    if found is None:
        return
    size = checkpoint_bytes(found[0], options.policy, options.algorithm)
    kept = options.trainer.keep_checkpoints
    there = sum(f.stat().st_size for f in folder.glob("checkpoints/**/*") if f.is_file())
    above = (folder.absolute(), *folder.absolute().parents)
    free = disk_usage(next(path for path in above if path.exists())).free
    if free + there < (kept + 1) * size:
        raise InputError(
            f"{folder} has {free / GIB:.3g} GiB free, and {kept} checkpoints of about "
            f"{size / GIB:.3g} GiB are kept while the next one is written: lower "
            "trainer.keep_checkpoints, free some space, or pass a run_dir on another disk"
        )


def _adapter_parameters(shape: ShapeOptions, lora: LoraOptions) -> float:
    """About so many: seven matrices per layer, the MLP's taken as four times as wide."""
    in_and_out = 4 * 2 * shape.hidden_size + 3 * 5 * shape.hidden_size
    return lora.rank * in_and_out * shape.num_layers


def _activations(shape: ShapeOptions, options: PolicyOptions) -> float:
    """Bytes in 16 bit: all layers, or with checkpointing their inputs and one layer recomputed."""
    per_layer = ACTIVATION_UNITS * options.max_tokens_per_microbatch * shape.hidden_size
    if not options.gradient_checkpointing:
        return per_layer * shape.num_layers
    inputs = 2 * options.max_tokens_per_microbatch * shape.hidden_size * shape.num_layers
    return inputs + per_layer

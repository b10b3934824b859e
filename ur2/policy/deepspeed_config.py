"""The DeepSpeed configuration that our options mean. Nobody else writes one."""

from collections.abc import Mapping
from typing import Any

from ur2.errors import InputError
from ur2.policy.options import PolicyOptions

MAX_BUCKET_ELEMENTS = 500_000_000


def deepspeed_config(
    options: PolicyOptions, *, num_parameters: int, on_gpu: bool
) -> dict[str, Any]:
    """Options as DeepSpeed reads them, with the user's overrides on top.

    Batch sizes are 1, since denominators and accumulation boundaries are ours.

    Raises:
        InputError: the options cannot go together on this machine.
    """
    _check(options, on_gpu)
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "zero_optimization": _zero(options, num_parameters, on_gpu),
        "gradient_clipping": options.max_grad_norm if options.zero_stage else 0.0,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
    }
    if shards_bf16(options):
        config["bf16"] = {"enabled": True, "check_grad_overflow": True}
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return _merged(config, options.deepspeed_overrides)


def shards_bf16(options: PolicyOptions) -> bool:
    """Whether weights are bf16 with sharded fp32 masters."""
    return options.precision == "bf16" and options.zero_stage >= 2


def _zero(options: PolicyOptions, num_parameters: int, on_gpu: bool) -> dict[str, Any]:
    # buckets are allocated whole, so they are no larger than the model; DeepSpeed wants them even
    bucket = min(MAX_BUCKET_ELEMENTS, num_parameters + num_parameters % 2)
    zero: dict[str, Any] = {
        "stage": options.zero_stage,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
        "overlap_comm": on_gpu,
    }
    if options.offload == "cpu":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    return zero


def _check(options: PolicyOptions, on_gpu: bool) -> None:
    if options.precision == "bf16" and options.zero_stage == 1:
        raise InputError(
            "policy.precision 'bf16' needs zero_stage 0, 2 or 3; stage 2 costs no more "
            "communication than stage 1"
        )
    if options.offload == "cpu" and options.zero_stage == 0:
        raise InputError("policy.offload 'cpu' needs zero_stage 1, 2 or 3")
    if options.offload == "cpu" and not on_gpu:
        raise InputError("policy.offload 'cpu' moves states off a GPU, and there is none; set none")


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, mappings merged key by key."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            value = _merged(below, value)
        merged[key] = value
    return merged

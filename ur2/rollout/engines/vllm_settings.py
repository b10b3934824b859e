"""Settings of vllm before it starts: its environment, and what differs between CPU and GPU."""

from typing import Any

from ur2.rollout.options import EngineOptions

IN_CORE = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""The model in the core's own process. Asked for "uni", the CPU build still gives it another, and
the two poll each other's memory for every token, which costs a core."""


def on_cpu() -> bool:
    """Whether this is the build for CPU."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def environment(options: EngineOptions) -> dict[str, str]:
    """The environment that vllm and its children read."""
    return {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENGINE_READY_TIMEOUT_S": str(int(options.start_timeout_s)),
        # Pinning would put the engines of one machine on the same cores.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(options.num_threads),
        "TOKENIZERS_PARALLELISM": "false",
    }


def device_arguments(options: EngineOptions, *, sleeps: bool) -> dict[str, Any]:
    """The engine's arguments that depend on the device."""
    if not on_cpu():
        return {
            "gpu_memory_utilization": options.gpu_memory_utilization,
            "enable_sleep_mode": sleeps,
        }
    return {
        "kv_cache_memory_bytes": int(options.kv_cache_gib * 2**30),
        # A seeded request whose prompt is cut in two kills vllm 0.32 on CPU: it rewinds the
        # request's generator, which CPU generators cannot do.
        "enable_chunked_prefill": False,
        # Only whole blocks of a prefix are shared: vllm's 128 on CPU exceeds many a prompt,
        # and its kernels take multiples of 32.
        "block_size": 32,
    }

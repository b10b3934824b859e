"""Knowledge of what the processor computes by itself, for torch, oneDNN, faiss and vllm alike.

A type without units of its own is emulated: right, and many times as slow. torch obeys
`ATEN_CPU_CAPABILITY` and oneDNN `ONEDNN_MAX_CPU_ISA`, which lower what they use; faiss and vllm's
CPU build look at the processor alone.
"""

import logging
import os
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

CPU_INFO = Path("/proc/cpuinfo")
AVX512 = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"})
UNITS: Mapping[str, frozenset[str]] = {
    "bfloat16": frozenset({"avx512_bf16", "amx_bf16", "bf16"}),
    "float16": frozenset({"avx512_fp16", "amx_fp16", "asimdhp"}),
}
"""By type, the flags of which any one means units for its products (x86, ARM)."""
ONEDNN_LEVELS = (
    *("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2"),
    *("AVX512_CORE", "AVX512_CORE_VNNI", "AVX512_CORE_BF16", "AVX512_CORE_FP16"),
    *("AVX512_CORE_AMX", "AVX512_CORE_AMX_FP16"),
)
"""From the least; oneDNN uses nothing above the one that its variable names."""
NEEDED_LEVEL: Mapping[str, str] = {"bfloat16": "AVX512_CORE_BF16", "float16": "AVX512_CORE_FP16"}


@cache
def flags() -> frozenset[str]:
    """The processor's features by their Linux names; none where the system does not list them."""
    for line in _info():
        if line.partition(":")[0].strip() in ("flags", "Features"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def has_avx512() -> bool:
    """Whether there is AVX-512 for libraries that look at the processor alone."""
    return flags() >= AVX512


def torch_uses_avx512() -> bool:
    """Whether torch and oneDNN use it."""
    lowered = os.environ.get("ATEN_CPU_CAPABILITY", "").lower() in ("avx2", "default")
    return has_avx512() and not lowered and _onednn_reaches("AVX512_CORE")


def computes(dtype: str) -> bool:
    """Whether products of a torch dtype, by its name, are computed and not emulated on the CPU."""
    units = UNITS.get(dtype)
    if units is None:
        return True
    return bool(units & flags()) and _onednn_reaches(NEEDED_LEVEL[dtype])


def onednn_lays_out(dtype: str) -> bool:
    """Whether oneDNN takes weights of this type laid out ahead, which makes products faster."""
    if dtype == "float32":
        return True
    converts = "avx_ne_convert" in flags() and _onednn_reaches("AVX2_VNNI_2")
    return dtype == "bfloat16" and (torch_uses_avx512() or converts)


def warn_if_emulated(dtype: str, *, key: str) -> None:
    """Says how much slower a type is that an option asks for, where it is emulated."""
    if not computes(dtype):
        logger.warning(
            "%s: this processor (%s) has no units for %s, whose products take %.0f times as long "
            "as those of float32; float32 is faster here",
            *(key, describe(), dtype, slowdown(dtype)),
        )


@cache
def slowdown(dtype: str) -> float:
    """How long a product of 256 × 256 takes by one of float32, measured once, in some 50 ms."""
    import torch

    def seconds(matrix: Any) -> float:
        started = time.perf_counter()
        matrix @ matrix
        return time.perf_counter() - started

    plain, num_threads = torch.ones(256, 256), torch.get_num_threads()
    torch.set_num_threads(1)  # several would wait for each other where the cores are busy
    try:
        plain_s = min(seconds(plain) for _ in range(5))
        return min(seconds(plain.to(getattr(torch, dtype))) for _ in range(2)) / plain_s
    finally:
        torch.set_num_threads(num_threads)


def describe() -> str:
    """The processor in words: name, cores and what it computes; benchmarks print it."""
    named = (line.partition(":")[2].strip() for line in _info() if line.startswith("model name"))
    widest = "AVX-512" if torch_uses_avx512() else "AVX2" if "avx2" in flags() else "no AVX2"
    units = "with bfloat16 units" if computes("bfloat16") else "without bfloat16 units"
    parts = [next(named, "unknown processor"), f"{os.cpu_count()} cores", f"{widest} {units}"]
    if has_avx512() and not torch_uses_avx512():
        parts.append("AVX-512 switched off for torch")
    return ", ".join(parts)


@cache
def _info() -> tuple[str, ...]:
    return tuple(CPU_INFO.read_text().splitlines()) if CPU_INFO.exists() else ()


def _onednn_reaches(level: str) -> bool:
    highest = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    if highest not in ONEDNN_LEVELS:  # nothing, DEFAULT, or a level beyond these
        return True
    return ONEDNN_LEVELS.index(highest) >= ONEDNN_LEVELS.index(level)

"""The work that the benchmarks of the policy time, and how they time it.

Log-probability and entropy of every trained token, the clipped loss, and its backward pass. Times
are processor time on CPU, wall time on a GPU; peak memory is that above the state before, of the
process (VmHWM) or of the GPU.
"""

import ctypes
import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ur2.algorithms.options import AlgorithmOptions
from ur2.algorithms.reductions import Denominators
from ur2.policy.batch.microbatch import collate
from ur2.policy.batch.packing import plan
from ur2.policy.loss import microbatch_loss
from ur2.policy.model.attention import PACKED
from ur2.policy.model.models import PolicyModel
from ur2.types import Batch, Sample

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
OPTIONS = AlgorithmOptions()
Run = Callable[[], None]


def make_samples(count: int, vocab: int, longest: int) -> list[Sample]:
    """A fifth of each is prompt, the rest is trained on; advantages differ by sequence."""
    rng = np.random.default_rng(0)
    normal = statistics.NormalDist()
    sigma = np.log(10) / normal.inv_cdf(0.99)
    quantiles = [normal.inv_cdf((i + 0.5) / count) for i in rng.permutation(count)]
    samples = []
    for number, z in enumerate(quantiles):
        length = min(int(600 * np.exp(sigma * z)), longest)
        mask = np.arange(length) >= max(1, length // 5)
        samples.append(
            Sample(
                id=f"{number:04d}",
                token_ids=rng.integers(0, vocab, length),
                mask=mask,
                advantages=np.where(mask, rng.normal(), 0.0).astype(np.float32),
                sampler_logprobs=np.where(mask, -np.log(vocab), 0.0).astype(np.float32),
            )
        )
    return samples


def packed_pass(model: PolicyModel, samples: Sequence[Sample], row_tokens: int) -> None:
    (step,) = (
        plan(
            Batch(samples=tuple(samples)),
            num_updates=1,
            num_ranks=1,
            max_tokens_per_microbatch=row_tokens,
        )
        .for_rank(0)
        .steps
    )
    model.lm.set_attn_implementation(PACKED)
    for microbatch in step.microbatches:
        inputs = collate(microbatch, DEVICE)
        logprob_N, entropy_N = model(inputs.row, inputs.position_N, inputs.target_N)
        counts = denominators(step.num_tokens, step.num_sequences)
        microbatch_loss(logprob_N, entropy_N, inputs, None, OPTIONS, counts)[0].backward()


def denominators(num_tokens: int, num_sequences: int) -> Denominators:
    return Denominators(
        num_tokens=num_tokens, num_sequences=num_sequences, norm_length=OPTIONS.norm_length
    )


def timed(lm: nn.Module, variants: Mapping[str, Run], repeats: int) -> dict[str, list[float]]:
    """Seconds of each variant, in turns; all have run before, when gradients were compared."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, run in variants.items():
            clear(lm)
            begin = clock()
            run()
            seconds[name].append(clock() - begin)
    return seconds


def clock() -> float:
    if DEVICE.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def difference(one: Tensor, other: Tensor) -> float:
    """The largest, relative to the largest value."""
    return float((one - other).abs().max().float() / other.abs().max())


def clear(lm: nn.Module) -> None:
    for parameter in lm.parameters():
        parameter.grad = None


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Bytes at the highest point inside, above those before."""
    gc.collect()
    found: list[int] = []
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield found
        found.append(torch.cuda.max_memory_allocated() - before)
        return
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = status_bytes("VmRSS")
    yield found
    found.append(status_bytes("VmHWM") - before)


def status_bytes(key: str) -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(key)) * 1024


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float]) -> str:
    return f"{median(values):.2f} s ({min(values):.2f} to {max(values):.2f})"


def ratio(seconds: Mapping[str, Sequence[float]], slow: str, fast: str) -> float:
    return round(median(seconds[slow]) / median(seconds[fast]), 2)


def hardware() -> str:
    if DEVICE.type == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"{os.cpu_count()} cores, no GPU"

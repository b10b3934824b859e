"""Numbers per token that the ranks compute together."""

from collections.abc import Callable, Sequence

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from ur2.policy.batch.packing import Microbatch, plan
from ur2.policy.ranks import gather_objects, merge
from ur2.types import Batch, Sample


def per_token(
    samples: Sequence[Sample],
    compute: Callable[[Microbatch], Tensor],
    *,
    max_tokens_per_microbatch: int,
) -> list[NDArray[np.float32]]:
    """Runs `compute` for the trained tokens of each microbatch, (N,), and joins all samples.

    Args:
        samples: the same on all ranks, with distinct ids.
        compute: the same on all ranks; each calls it as often.
        max_tokens_per_microbatch: as in `plan`.

    Returns:
        One array per sample, (T,), 0 where the mask is False.
    """
    shares = plan(
        Batch(samples=tuple(samples)),
        num_updates=1,
        num_ranks=dist.get_world_size(),
        max_tokens_per_microbatch=max_tokens_per_microbatch,
    )
    found: dict[str, NDArray[np.float32]] = {}
    for microbatch in shares.for_rank(dist.get_rank()).steps[0].microbatches:
        value_N = compute(microbatch).cpu().numpy()
        ends = np.cumsum([int(s.mask.sum()) for s in microbatch])
        for sample, part in zip(microbatch, np.split(value_N, ends), strict=False):
            found[sample.id] = np.zeros(len(sample.mask), dtype=np.float32)
            found[sample.id][sample.mask] = part
    everywhere = merge(gather_objects(found))
    return [everywhere.get(s.id, np.zeros(len(s.mask), dtype=np.float32)) for s in samples]

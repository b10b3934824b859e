"""Metrics of one update, summed over steps, microbatches and ranks."""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from ur2.policy.loss import Report


class Totals:
    """Adds up reports of one model; tensors stay on the device until `metrics`."""

    def __init__(self, model: str) -> None:
        self.model = model
        """The first part of the metrics' names that are not a report's."""
        self._losses: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}
        self._maxima: dict[str, Tensor] = {}
        self._norms: list[float] = []
        self._num_tokens = 0

    def add(self, reports: Sequence[Report], num_tokens: int, norm: float) -> None:
        """Counts one optimizer step of `num_tokens` policy tokens over all ranks."""
        self._norms.append(norm)
        self._num_tokens += num_tokens
        for report in reports:
            for total, part in ((self._losses, report.losses), (self._sums, report.sums)):
                for key, value in part.items():
                    total[key] = total[key] + value if key in total else value.double()
            for key, value in report.maxima.items():
                self._maxima[key] = torch.maximum(self._maxima.get(key, value), value)

    def metrics(self) -> dict[str, float]:
        """Means over tokens (losses: over steps) of all ranks; a collective call."""
        num_steps = len(self._norms)
        losses = _over_ranks(self._losses, dist.ReduceOp.SUM)
        sums = _over_ranks(self._sums, dist.ReduceOp.SUM)
        return {
            **{key: value / num_steps for key, value in losses.items()},
            **{key: value / self._num_tokens for key, value in sums.items()},
            **_over_ranks(self._maxima, dist.ReduceOp.MAX),
            f"{self.model}/grad_norm": sum(self._norms) / num_steps,
        }


def _over_ranks(
    totals: Mapping[str, Tensor], operation: dist.ReduceOp.RedOpType
) -> dict[str, float]:
    """One number per key; all ranks have the same keys."""
    if not totals:
        return {}
    keys = sorted(totals)
    stacked = torch.stack([totals[key] for key in keys])
    dist.all_reduce(stacked, op=operation)
    return dict(zip(keys, stacked.tolist(), strict=True))

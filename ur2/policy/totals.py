"""Metrics of one update, summed over steps, microbatches and ranks."""

from collections.abc import Sequence

import torch
import torch.distributed as dist

from ur2.policy.loss import SUMS, Report


class Totals:
    """Adds up reports; tensors stay on the device until `metrics`."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(len(SUMS), dtype=torch.float64, device=device)
        self._ratio_max = torch.zeros((), device=device)
        self._norms: list[float] = []
        self._num_tokens = 0

    def add(self, reports: Sequence[Report], num_tokens: int, norm: float) -> None:
        """Counts one optimizer step of `num_tokens` policy tokens over all ranks."""
        self._norms.append(norm)
        self._num_tokens += num_tokens
        for report in reports:
            self._sums += report.sums
            self._ratio_max = torch.maximum(self._ratio_max, report.ratio_max)

    def metrics(self) -> dict[str, float]:
        """Means over tokens (the loss: over steps) of all ranks; a collective call."""
        dist.all_reduce(self._sums)
        dist.all_reduce(self._ratio_max, op=dist.ReduceOp.MAX)
        num_steps = len(self._norms)
        loss, *others = self._sums.tolist()
        return {
            SUMS[0]: loss / num_steps,
            **{key: value / self._num_tokens for key, value in zip(SUMS[1:], others, strict=True)},
            "mismatch/is_max": float(self._ratio_max),
            "policy/grad_norm": sum(self._norms) / num_steps,
        }

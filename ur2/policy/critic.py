"""The value model of one rank: its own weights, optimizer and learning rate.

Shapes: _N trained tokens of a microbatch.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ur2.algorithms.options import AlgorithmOptions
from ur2.algorithms.reductions import Denominators
from ur2.policy.batch.microbatch import collate
from ur2.policy.batch.packing import Microbatch, RankStep
from ur2.policy.loss import Report, critic_loss
from ur2.policy.options import PolicyOptions
from ur2.types import Sample

if TYPE_CHECKING:
    from ur2.policy.engine import TrainEngine


def critic_options(options: PolicyOptions) -> PolicyOptions:
    """The policy's options, as they hold for the critic."""
    changes = {"learning_rate": options.critic_learning_rate, "optimizer": "adamw"}
    return options.model_copy(update=changes)


class Critic:
    """Says what return to expect, and learns what came; all calls are collective."""

    def __init__(self, engine: "TrainEngine", algorithm: AlgorithmOptions) -> None:
        self.engine = engine
        self.algorithm = algorithm

    @torch.no_grad()
    def values(self, microbatch: Microbatch) -> Tensor:
        """Values of the trained tokens, (N,)."""
        inputs = collate(microbatch, self.engine.device)
        value_N: Tensor = self.engine.forward(inputs.row, inputs.position_N)
        return value_N

    def step(self, step: RankStep, learning_rate_factor: float) -> tuple[list[Report], float, bool]:
        """One optimizer step on samples whose advantages came from their `values`.

        Returns:
            A report per microbatch, the gradient's norm, and whether the weights moved.
        """
        denominators = Denominators(
            num_tokens=step.num_tokens, num_sequences=step.num_sequences, norm_length=1
        )
        reports = []
        for number, microbatch in enumerate(step.microbatches, start=1):
            inputs = collate(microbatch, self.engine.device)
            value_N = self.engine.forward(inputs.row, inputs.position_N)
            old_value_N = self._carried([s.values[s.mask] for s in microbatch])
            return_N = self._carried([_returns(s)[s.mask] for s in microbatch])
            loss, report = critic_loss(
                value_N, old_value_N, return_N, inputs, self.algorithm, denominators
            )
            self.engine.backward(loss, last=number == len(step.microbatches))
            reports.append(report)
        norm, applied = self.engine.step(learning_rate_factor)
        return reports, norm, applied

    def _carried(self, arrays: Sequence[NDArray[np.float32]]) -> Tensor:
        """Numbers that the samples carry, (N,); 0 for the one token of an idle rank."""
        given = np.concatenate(arrays) if arrays else np.zeros(1, dtype=np.float32)
        return torch.from_numpy(given).to(self.engine.device)


def _returns(sample: Sample) -> NDArray[np.float32]:
    return sample.returns if len(sample.returns) else sample.advantages + sample.values

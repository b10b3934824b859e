"""From scored groups to what the policy update consumes.

Shapes: _B trajectories, _T tokens of the longest one, _N policy tokens of them all.

The divergence that is taken off a reward is that of the policy that wrote the token: its
log-probabilities are the sampler's, which are at hand, and need no pass of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ur2.algorithms import estimate
from ur2.algorithms.kl import KL_ESTIMATORS, k3
from ur2.algorithms.options import AlgorithmOptions
from ur2.types import Batch, Sample, ScoredGroup

Arrays = Sequence[NDArray[np.float32]]
"""One array (T,) per sample, 0 at tokens that the policy did not write."""


class SideModels(Protocol):
    """The models beside the policy."""

    async def reference_logprobs(self, samples: Sequence[Sample]) -> Arrays:
        """Log-probabilities under the model that training started from."""

    async def values(self, samples: Sequence[Sample]) -> Arrays:
        """The critic's expectation before each token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SideOutputs:
    """Outputs of the models beside the policy; empty where they are not asked."""

    reference_logprobs: Arrays = ()
    values: Arrays = ()


async def make_batch(
    groups: Sequence[ScoredGroup], options: AlgorithmOptions, models: SideModels
) -> tuple[Batch, dict[str, float]]:
    """`to_batch`, after the models that its estimator needs have been asked; and their metrics."""
    samples = _to_samples(groups)
    asked = any(sample.mask.any() for sample in samples)
    penalised = options.kl_coef > 0 and options.kl_in == "reward"
    outputs = SideOutputs(
        reference_logprobs=await models.reference_logprobs(samples) if asked and penalised else (),
        values=await models.values(samples) if asked and options.estimator == "gae" else (),
    )
    batch = _estimated(groups, samples, options, outputs)
    return batch, _metrics(batch, outputs)


def to_batch(groups: Sequence[ScoredGroup], options: AlgorithmOptions) -> Batch:
    """One sample per trajectory, with the advantage of each token that the policy wrote."""
    return _estimated(groups, _to_samples(groups), options, SideOutputs())


def _estimated(
    groups: Sequence[ScoredGroup],
    samples: Sequence[Sample],
    options: AlgorithmOptions,
    outputs: SideOutputs,
) -> Batch:
    """The samples of all groups, in order, with their advantages."""
    if not samples:
        return Batch(samples=())
    kl_BT = None
    if outputs.reference_logprobs:
        kl_BT = KL_ESTIMATORS[options.kl_estimator](_padded(_log_ratios(samples, outputs)))
    advantage_BT = estimate(
        options.estimator,
        torch.tensor([s.total for g in groups for s in g.scores], dtype=torch.float32),
        torch.tensor([i for i, g in enumerate(groups) for _ in g.scores]),
        _padded([sample.mask for sample in samples]),
        kl_BT,
        gamma=options.gamma,
        kl_coef=options.kl_coef,
        value_BT=_padded(outputs.values) if outputs.values else None,
        lam=options.lam,
    )
    return Batch(
        samples=tuple(
            replace(
                sample,
                advantages=advantage_T[: len(sample.mask)].numpy().copy(),
                values=outputs.values[row] if outputs.values else sample.values,
            )
            for row, (sample, advantage_T) in enumerate(zip(samples, advantage_BT, strict=True))
        )
    )


def _to_samples(groups: Sequence[ScoredGroup]) -> list[Sample]:
    """Trajectories as training sequences, with advantages of 0."""
    return [
        Sample(
            id=trajectory.id,
            token_ids=np.asarray(trajectory.token_ids, dtype=np.int64),
            mask=np.asarray(trajectory.policy_mask, dtype=np.bool_),
            advantages=np.zeros(len(trajectory.token_ids), dtype=np.float32),
            sampler_logprobs=np.asarray(trajectory.sampler_logprobs, dtype=np.float32),
        )
        for group in groups
        for trajectory in group.group.trajectories
    ]


def _padded(arrays: Sequence[NDArray[np.generic]]) -> Tensor:
    """(B, T)."""
    return pad_sequence([torch.from_numpy(array) for array in arrays], batch_first=True)


def _log_ratios(samples: Sequence[Sample], outputs: SideOutputs) -> list[NDArray[np.float32]]:
    """Log π − log π_ref of each sample, (T,)."""
    pairs = zip(samples, outputs.reference_logprobs, strict=True)
    return [sample.sampler_logprobs - reference for sample, reference in pairs]


def _metrics(batch: Batch, outputs: SideOutputs) -> dict[str, float]:
    """Means over policy tokens of what the models said."""

    def chosen(arrays: Arrays) -> NDArray[np.float64]:
        pairs = zip(arrays, batch.samples, strict=True)
        return np.concatenate([array[sample.mask] for array, sample in pairs]).astype(np.float64)

    metrics = {}
    if outputs.reference_logprobs:
        log_ratio_N = chosen(_log_ratios(batch.samples, outputs))
        metrics["policy/kl_reference"] = float(k3(torch.from_numpy(log_ratio_N)).mean())
    if outputs.values:
        advantage_N = chosen([sample.advantages for sample in batch.samples])
        spread = np.var(advantage_N + chosen(outputs.values))
        explained = 1.0 - float(np.var(advantage_N) / spread) if spread > 0 else 0.0
        metrics["critic/explained_variance"] = explained
    return metrics

"""From scored groups to what the policy update consumes.

Shapes: _B samples, _T tokens of the longest one, _N trained tokens of them all.

The divergence that is taken off a reward is that of the policy that wrote the token: its
log-probabilities are the sampler's, which are at hand, and need no pass of their own. Only where
samples are drawn at other temperatures than the policy's is the policy asked for them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ur2.algorithms import estimate
from ur2.algorithms.advantages import whiten
from ur2.algorithms.kl import KL_ESTIMATORS, k3
from ur2.algorithms.options import AlgorithmOptions
from ur2.trainer.credit import Credited, at_tokens, credited
from ur2.types import Author, Batch, Explored, Sample, ScoredGroup, Segment, allowed_positions

Arrays = Sequence[NDArray[np.float32]]
"""One array (T,) per sample, 0 at tokens that the policy did not write."""


class SideModels(Protocol):
    """The policy and the models beside it."""

    async def logprobs(self, samples: Sequence[Sample]) -> Arrays:
        """Log-probabilities under the policy, at its own temperature."""

    async def reference_logprobs(self, samples: Sequence[Sample]) -> Arrays:
        """Log-probabilities under the model that training started from."""

    async def values(self, samples: Sequence[Sample]) -> Arrays:
        """The critic's expectation before each token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SideOutputs:
    """Outputs of the models; empty where they are not asked."""

    logprobs: Arrays = ()
    """The policy's, where they are not the sampler's."""
    reference_logprobs: Arrays = ()
    values: Arrays = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditedSample:
    """A sample before its advantages, and what it is compared with."""

    sample: Sample
    group: int
    trajectory: int
    credited: Credited


async def make_batch(
    groups: Sequence[ScoredGroup],
    options: AlgorithmOptions,
    models: SideModels,
    *,
    sampled_as_policy: bool = True,
    behaviour: Callable[[Sample], Sample] = lambda sample: sample,
) -> tuple[Batch, dict[str, float]]:
    """`to_batch`, after the models that its estimator needs have been asked; and their metrics.

    Args:
        groups: what was played.
        options: credit, estimator and divergence.
        models: what is asked.
        sampled_as_policy: whether tokens were drawn from the policy's own distribution, so that the
            sampler's log-probabilities are the policy's.
        behaviour: puts the probabilities of what drew a sample into it, in groups with branches.
    """
    rows = [
        replace(row, sample=behaviour(row.sample)) if row.sample.explored else row
        for row in _rows(groups, options)
    ]
    samples = [row.sample for row in rows]
    asked = any(sample.mask.any() for sample in samples)
    penalised = asked and options.kl_coef > 0 and options.kl_in == "reward"
    outputs = SideOutputs(
        logprobs=() if sampled_as_policy or not penalised else await models.logprobs(samples),
        reference_logprobs=await models.reference_logprobs(samples) if penalised else (),
        values=await models.values(samples) if asked and options.has_critic else (),
    )
    estimated = _estimated(rows, options, outputs)
    return _learning(estimated, options), _metrics(estimated, outputs)


def to_batch(groups: Sequence[ScoredGroup], options: AlgorithmOptions) -> Batch:
    """A sample per context, as `options.credit` says, with the advantage of each trained token."""
    return _learning(_estimated(_rows(groups, options), options, SideOutputs()), options)


def _learning(samples: Sequence[Sample], options: AlgorithmOptions) -> Batch:
    """The batch without the roles that were compared only."""
    return Batch(samples=tuple(s for s in samples if s.role not in options.frozen_roles))


def _rows(groups: Sequence[ScoredGroup], options: AlgorithmOptions) -> list[CreditedSample]:
    """The samples of all groups, in order; comparisons are within a group and a role.

    Trajectories of `mask_statuses` are in none of it.
    """
    rows: list[CreditedSample] = []
    numbers: dict[tuple[int, str], int] = {}
    num_trajectories = 0
    for place, played in enumerate(groups):
        group = played.without(options.mask_statuses)
        if len(group.scores) == 1 < len(played.scores) and options.compares == "group":
            continue  # nobody is left to compare it with
        shares = _shares(group)
        for trajectory, score in zip(group.group.trajectories, group.scores, strict=True):
            contexts = credited(options.credit, trajectory, score)
            for number, context in enumerate(contexts):
                name = f"{trajectory.id}#{number}" if len(contexts) > 1 else trajectory.id
                group_number = numbers.setdefault((place, context.role), len(numbers))
                rows.append(
                    CreditedSample(
                        sample=_sample(name, context, bool(trajectory.parent), shares),
                        group=group_number,
                        trajectory=num_trajectories,
                        credited=context,
                    )
                )
            num_trajectories += 1
    return rows


def _shares(group: ScoredGroup) -> tuple[float, float] | None:
    """Branches among the trajectories, and wrong ones among the others; None without branches."""
    own = [s for t, s in zip(group.group.trajectories, group.scores, strict=True) if not t.parent]
    if len(own) == len(group.scores):
        return None
    wrong = sum(score.correct < 1 for score in own) / max(len(own), 1)
    return 1 - len(own) / len(group.scores), wrong


def _sample(
    name: str, context: Credited, is_branch: bool, shares: tuple[float, float] | None
) -> Sample:
    """A context as a training sequence, with advantages of 0."""
    segments = context.segments
    token_ids = np.asarray([t for s in segments for t in s.token_ids], dtype=np.int64)
    mask = np.asarray([s.is_trained for s in segments for _ in s.token_ids], dtype=np.bool_)
    drawn = [x for s in segments for x in (s.logprobs or (0.0,) * len(s.token_ids))]
    return Sample(
        id=name,
        token_ids=token_ids,
        mask=mask,
        advantages=np.zeros(len(token_ids), dtype=np.float32),
        sampler_logprobs=np.asarray(drawn, dtype=np.float32),
        role=context.role,
        allowed=allowed_positions(segments),
        explored=None if shares is None else _explored(segments, is_branch, *shares),
    )


def _explored(
    segments: Sequence[Segment], is_branch: bool, share_branched: float, share_wrong: float
) -> Explored:
    return Explored(
        is_branch=is_branch,
        injected=np.asarray([s.author is Author.INJECTED for s in segments for _ in s.token_ids]),
        num_prompt_tokens=len(segments[0].token_ids),
        share_branched=share_branched,
        share_wrong=share_wrong,
    )


def _estimated(
    rows: Sequence[CreditedSample], options: AlgorithmOptions, outputs: SideOutputs
) -> list[Sample]:
    """The samples with their advantages."""
    if not rows:
        return []
    samples = [row.sample for row in rows]
    kl_BT = None
    if outputs.reference_logprobs:
        kl_BT = KL_ESTIMATORS[options.kl_estimator](_padded(_log_ratios(samples, outputs)))
    earned = [np.asarray(at_tokens(row.credited), dtype=np.float64) for row in rows]
    advantage_BT = estimate(
        options.estimator,
        torch.tensor([row.credited.reward for row in rows], dtype=torch.float32),
        torch.tensor([row.group for row in rows]),
        _padded([sample.mask for sample in samples]),
        kl_BT,
        gamma=options.gamma,
        kl_coef=options.kl_coef,
        value_BT=_padded(outputs.values) if outputs.values else None,
        lam=options.lam,
        earned_BT=_padded(earned),
        trajectory_B=torch.tensor([row.trajectory for row in rows]),
    )
    learned_BT = advantage_BT
    if options.whiten:
        mask_BT = _padded([sample.mask for sample in samples])
        learned_BT = whiten(advantage_BT.double(), mask_BT).float()
    return [
        replace(
            sample,
            advantages=_row(learned_BT, place, sample),
            values=outputs.values[place] if outputs.values else sample.values,
            returns=_row(advantage_BT, place, sample) + outputs.values[place]
            if outputs.values
            else sample.returns,
        )
        for place, sample in enumerate(samples)
    ]


def _row(value_BT: Tensor, place: int, sample: Sample) -> NDArray[np.float32]:
    """A sample's own row without padding, (T,)."""
    return value_BT[place, : len(sample.mask)].numpy().copy()


def _padded(arrays: Sequence[NDArray[np.generic]]) -> Tensor:
    """(B, T)."""
    copies = [torch.tensor(array) for array in arrays]  # what ray brings must not be written to
    return pad_sequence(copies, batch_first=True)


def _log_ratios(samples: Sequence[Sample], outputs: SideOutputs) -> list[NDArray[np.float32]]:
    """Log π − log π_ref of each sample, (T,)."""
    own = outputs.logprobs or [sample.sampler_logprobs for sample in samples]
    return [mine - its for mine, its in zip(own, outputs.reference_logprobs, strict=True)]


def _metrics(samples: Sequence[Sample], outputs: SideOutputs) -> dict[str, float]:
    """Means over policy tokens of what the models said."""

    def chosen(arrays: Arrays) -> NDArray[np.float64]:
        pairs = zip(arrays, samples, strict=True)
        return np.concatenate([array[sample.mask] for array, sample in pairs]).astype(np.float64)

    metrics = {}
    if outputs.reference_logprobs:
        log_ratio_N = chosen(_log_ratios(samples, outputs))
        metrics["policy/kl_reference"] = float(k3(torch.from_numpy(log_ratio_N)).mean())
    if outputs.values:
        return_N = chosen([sample.returns for sample in samples])
        spread = np.var(return_N)
        left = np.var(return_N - chosen(outputs.values))
        explained = 1.0 - float(left / spread) if spread > 0 else 0.0
        metrics["critic/explained_variance"] = explained
    return metrics

"""From scored groups to what the policy update consumes.

Shapes: _B trajectories, _T tokens of the longest one.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from ur2.algorithms import estimate
from ur2.algorithms.options import AlgorithmOptions
from ur2.types import Batch, Sample, ScoredGroup


def to_batch(groups: Sequence[ScoredGroup], options: AlgorithmOptions) -> Batch:
    """One sample per trajectory, with the advantage of each token that the policy wrote."""
    trajectories = [t for g in groups for t in g.group.trajectories]
    if not trajectories:
        return Batch(samples=())
    reward_B = torch.tensor([s.total for g in groups for s in g.scores], dtype=torch.float32)
    group_B = torch.tensor([i for i, g in enumerate(groups) for _ in g.scores])
    mask_BT = pad_sequence(
        [torch.tensor(t.policy_mask, dtype=torch.bool) for t in trajectories], batch_first=True
    )
    advantage_BT = estimate(options.estimator, reward_B, group_B, mask_BT, gamma=options.gamma)
    return Batch(
        samples=tuple(
            Sample(
                id=trajectory.id,
                token_ids=np.asarray(trajectory.token_ids, dtype=np.int64),
                mask=np.asarray(trajectory.policy_mask, dtype=np.bool_),
                advantages=advantage_T[: len(trajectory.token_ids)].numpy().astype(np.float32),
                sampler_logprobs=np.asarray(trajectory.sampler_logprobs, dtype=np.float32),
            )
            for trajectory, advantage_T in zip(trajectories, advantage_BT, strict=True)
        )
    )

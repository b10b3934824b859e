"""TRL's GRPO loss beside ours, driven through `GRPOTrainer._compute_loss`.

The trainer is a stand-in that holds what this method reads; the log-probabilities are ours.
"""

from collections import defaultdict
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from arrays import NORM_LENGTH, Arrays, our_loss, their_loss
from rows import Row, row
from torch import Tensor
from trl.trainer.grpo_trainer import GRPOTrainer

from ur2.algorithms.options import AlgorithmOptions


def rows(arrays: Arrays) -> Iterator[Row]:
    """All comparisons."""
    several = {"clip_low": 0.2, "clip_high": 0.28}
    sequence = {"clip_low": 0.05, "clip_high": 0.1}
    cases: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("GRPO", {**several, "reduction": "seq_mean_token_mean"}, {"loss_type": "grpo"}),
        (
            "GRPO with k3 in the loss",
            {**several, "reduction": "seq_mean_token_mean", "kl_coef": 0.3},
            {"loss_type": "grpo", "beta": 0.3},
        ),
        ("DAPO", {**several, "reduction": "token_mean"}, {"loss_type": "dapo"}),
        (
            "Dr. GRPO",
            {**several, "reduction": "seq_mean_token_sum_norm"},
            {"loss_type": "dr_grpo"},
        ),
        (
            "GSPO, our token form beside the sequence form",
            {**sequence, "loss": "gspo", "reduction": "seq_mean_token_mean"},
            {"loss_type": "grpo", "importance_sampling_level": "sequence"},
        ),
        (
            "CISPO",
            {"loss": "cispo", "clip_low": 1.0, "clip_high": 0.5},
            {"loss_type": "cispo", "epsilon_high": 1.5},
        ),
    ]
    for label, ours, theirs in cases:
        algorithm = AlgorithmOptions(**ours)
        settings = {
            "epsilon_low": algorithm.clip_low,
            "epsilon_high": algorithm.clip_high,
            **theirs,
        }
        found, expected = our_loss(arrays, algorithm), _trl_loss(arrays, settings)
        yield row(f"{label}: loss and gradient", "TRL", found, expected)


def _trl_loss(arrays: Arrays, settings: dict[str, Any]) -> Tensor:
    logprob_BT = arrays.logprob_BT.clone().requires_grad_()
    mask = arrays.mask_BT.float()
    options = {"importance_sampling_level": "token", "beta": 0.0, **settings}
    stand_in = SimpleNamespace(
        **options,
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        max_completion_length=NORM_LENGTH,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        accelerator=SimpleNamespace(
            num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x
        ),
        _get_per_token_logps_and_entropies=lambda *_, **__: (
            logprob_BT,
            torch.zeros_like(logprob_BT),
            None,
        ),
    )
    ids = torch.zeros(mask.shape, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": ids[:, :1] + 1,
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": arrays.advantage_BT[:, 0],
        "old_per_token_logps": arrays.old_logprob_BT,
        "ref_per_token_logps": arrays.reference_logprob_BT,
        "num_items_in_batch": mask.sum(),
    }
    loss = GRPOTrainer._compute_loss(stand_in, None, inputs)
    return their_loss(loss, logprob_BT, arrays.mask_BT)

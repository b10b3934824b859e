"""verl's advantages, losses, corrections and divergences beside ours."""

import math
from collections.abc import Iterator

import torch
from arrays import NORM_LENGTH, WITH_SINGLETON, Arrays, make_arrays, our_loss, their_loss
from rows import Row, row
from torch import Tensor
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo import core_algos, rollout_corr_helper
from verl.workers.config import ActorConfig

from ur2.algorithms import estimate
from ur2.algorithms.corrections import CORRECTIONS, Bounds
from ur2.algorithms.kl import KL_ESTIMATORS
from ur2.algorithms.options import AlgorithmOptions
from ur2.algorithms.sequences import Sequences
from ur2.algorithms.values import clipped_value

BESSEL = "verl whitens with n - 1, we with n (as OpenRLHF); equal after that factor, next row"
REDUCTIONS = {
    "token_mean": "token-mean",
    "seq_mean_token_mean": "seq-mean-token-mean",
    "seq_mean_token_sum_norm": "seq-mean-token-sum-norm",
}


def rows(arrays: Arrays) -> Iterator[Row]:
    """All comparisons."""
    yield from _advantages(arrays)
    yield from _losses(arrays)
    yield from _corrections(arrays)
    yield _value_loss(arrays)
    difference_BT = arrays.logprob_BT - arrays.reference_logprob_BT
    for name, estimator in KL_ESTIMATORS.items():
        theirs = core_algos.kl_penalty(arrays.logprob_BT, arrays.reference_logprob_BT, name)
        yield row(f"KL {name}", "verl", estimator(difference_BT), theirs)


def _advantages(arrays: Arrays) -> Iterator[Row]:
    functions = {
        "grpo": core_algos.compute_grpo_outcome_advantage,
        "rloo": core_algos.compute_rloo_outcome_advantage,
        "reinforce_pp_baseline": (
            core_algos.compute_reinforce_plus_plus_baseline_outcome_advantage
        ),
    }
    alone = make_arrays(1, WITH_SINGLETON)
    for name, function in functions.items():
        for label, batch, kl_coef in (("", arrays, 0.0), (", KL in reward", arrays, 0.3)):
            yield from _one(f"{name}{label}", name, function, batch, kl_coef)
        known = "verl gives a group of one r / (1 + eps), we 0" if name == "grpo" else ""
        yield from _one(f"{name}, a group of one", name, function, alone, 0.0, known)
    dr_grpo, _ = core_algos.compute_grpo_outcome_advantage(
        arrays.token_reward_BT(), _m(arrays), arrays.group_B.numpy(), norm_adv_by_std_in_grpo=False
    )
    yield row("dr_grpo", "verl", _ours("dr_grpo", arrays), dr_grpo)
    for gamma, kl_coef in ((1.0, 0.0), (0.9, 0.0), (0.9, 0.3)):
        theirs, _ = core_algos.compute_reinforce_plus_plus_outcome_advantage(
            arrays.token_reward_BT(kl_coef), _m(arrays), config=AlgoConfig(gamma=gamma)
        )
        ours = _ours("reinforce_pp", arrays, gamma=gamma, kl_coef=kl_coef)
        yield from _whitened(f"reinforce_pp, gamma {gamma}, beta {kl_coef}", ours, theirs, arrays)
        advantage, returns = core_algos.compute_gae_advantage_return(
            arrays.token_reward_BT(kl_coef), arrays.value_BT, _m(arrays), gamma, 0.95
        )
        ours = _ours(
            "gae", arrays, gamma=gamma, kl_coef=kl_coef, lam=0.95, value_BT=arrays.value_BT
        )
        mask = arrays.mask_BT
        label = f"gae, gamma {gamma}, beta {kl_coef}, lambda 0.95"
        yield row(f"{label}: returns", "verl", (ours + arrays.value_BT)[mask], returns[mask])
        whitened = (ours[mask] - ours[mask].mean()) / ours[mask].std()
        yield row(f"{label}: whitened as verl does", "verl", whitened, advantage[mask])


def _one(
    label: str, name: str, function, arrays: Arrays, kl_coef: float, known: str = ""
) -> Iterator[Row]:
    theirs, _ = function(arrays.token_reward_BT(kl_coef), _m(arrays), index=arrays.group_B.numpy())
    ours = _ours(name, arrays, kl_coef=kl_coef)
    if name == "reinforce_pp_baseline":
        yield from _whitened(label, ours, theirs, arrays)
    else:
        yield row(label, "verl", ours, theirs, known)


def _whitened(label: str, ours: Tensor, theirs: Tensor, arrays: Arrays) -> Iterator[Row]:
    num_tokens = int(arrays.mask_BT.sum())
    yield row(label, "verl", ours, theirs, known=BESSEL)
    scaled = theirs * math.sqrt(num_tokens / (num_tokens - 1))
    yield row(f"{label}: with n", "verl", ours, scaled)


def _losses(arrays: Arrays) -> Iterator[Row]:
    for name, options in {
        "ppo_clip": {"loss": "ppo_clip", "clip_high": 0.28, "dual_clip": 3.0},
        "gspo": {"loss": "gspo", "clip_low": 0.05, "clip_high": 0.1},
        "cispo": {"loss": "cispo", "clip_high": 0.5},
    }.items():
        for reduction, their_name in REDUCTIONS.items():
            algorithm = AlgorithmOptions(**options, reduction=reduction)
            config = ActorConfig(
                strategy="fsdp",
                rollout_n=1,
                ppo_micro_batch_size_per_gpu=1,
                clip_ratio_low=algorithm.clip_low,
                clip_ratio_high=algorithm.clip_high,
                clip_ratio_c=algorithm.dual_clip or 1e9,
                global_batch_info={"loss_scale_factor": NORM_LENGTH},
            )
            logprob_BT = arrays.logprob_BT.clone().requires_grad_()
            loss, _ = core_algos.get_policy_loss_fn(name.replace("ppo_clip", "vanilla"))(
                old_log_prob=arrays.old_logprob_BT,
                log_prob=logprob_BT,
                advantages=arrays.advantage_BT,
                response_mask=_m(arrays),
                loss_agg_mode=their_name,
                config=config,
            )
            theirs = their_loss(loss, logprob_BT, arrays.mask_BT)
            label = f"{name}, {reduction}: loss and gradient"
            yield row(label, "verl", our_loss(arrays, algorithm), theirs)


def _corrections(arrays: Arrays) -> Iterator[Row]:
    mask = arrays.mask_BT
    delta_BT = arrays.old_logprob_BT - arrays.sampler_logprob_BT
    length_B = mask.sum(1)
    sequences = Sequences(
        sequence_N=torch.repeat_interleave(torch.arange(len(mask)), length_B), length_B=length_B
    )
    for name, threshold in (("tis", 1.2), ("icepop", "0.7_1.3")):
        floor, cap = (0.7, 1.3) if name == "icepop" else (0.0, 1.2)
        ours = CORRECTIONS[name](delta_BT[mask], sequences, Bounds(floor=floor, cap=cap))
        theirs, _ = rollout_corr_helper.compute_rollout_correction_weights(
            delta_BT, _m(arrays), "token", threshold
        )
        yield row(f"correction {name}", "verl", ours, theirs[mask])
    kept = CORRECTIONS["sequence_mask"](delta_BT[mask], sequences, Bounds(floor=0.95, cap=1.05))
    theirs, _ = rollout_corr_helper.compute_rollout_rejection_mask(
        delta_BT, _m(arrays), "seq_mean_k1", "0.95_1.05"
    )
    yield row("correction sequence_mask", "verl seq_mean_k1", kept, theirs[mask])


def _value_loss(arrays: Arrays) -> Row:
    mask = arrays.mask_BT
    old_BT, return_BT = arrays.value_BT + 0.3 * arrays.logprob_BT, arrays.advantage_BT
    theirs, _ = core_algos.compute_value_loss(arrays.value_BT, return_BT, old_BT, _m(arrays), 0.2)
    ours_N, _ = clipped_value(arrays.value_BT[mask], old_BT[mask], return_BT[mask], 0.2)
    return row("value loss, clipped", "verl", ours_N.mean(), theirs)


def _ours(name: str, arrays: Arrays, **options) -> Tensor:
    return estimate(name, arrays.reward_B, arrays.group_B, arrays.mask_BT, arrays.kl_BT, **options)


def _m(arrays: Arrays) -> Tensor:
    return arrays.mask_BT.float()

"""Options of the maths."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from ur2.options import Options

GROUP_RELATIVE = frozenset({"grpo", "dr_grpo", "rloo", "reinforce_pp_baseline"})
"""Estimators that compare a group's samples: equal rewards give them no signal."""

CLIPPED = frozenset({"ppo_clip", "gspo", "cispo"})
BOUNDED = frozenset({"icepop", "sequence_mask"})
HAS_EFFECT: Mapping[str, tuple[str, frozenset[str]]] = {
    "gamma": ("estimator", frozenset({"reinforce_pp", "gae"})),
    "lam": ("estimator", frozenset({"gae"})),
    "value_clip": ("estimator", frozenset({"gae"})),
    "clip_low": ("loss", CLIPPED),
    "clip_high": ("loss", CLIPPED),
    "dual_clip": ("loss", frozenset({"ppo_clip"})),
    "norm_length": ("reduction", frozenset({"seq_mean_token_sum_norm"})),
    "correction_cap": ("correction", BOUNDED | {"tis"}),
    "correction_floor": ("correction", BOUNDED),
}
"""Option -> (the choice it belongs to, with which it does something)."""


class AlgorithmOptions(Options):
    """How rewards become a gradient."""

    estimator: Literal[
        "grpo", "dr_grpo", "rloo", "reinforce", "reinforce_pp", "reinforce_pp_baseline", "gae"
    ] = "grpo"
    """How rewards become advantages; `gae` trains a critic beside the policy."""
    gamma: float = Field(default=1.0, gt=0.0, le=1.0)
    """Discount per policy token; below 1 only with `reinforce_pp` and `gae`."""
    lam: float = Field(default=1.0, ge=0.0, le=1.0)
    """`gae`: how far an advantage trusts rewards over the critic, 1 fully."""
    value_clip: float | None = Field(default=0.2, gt=0.0)
    """`gae`: how far values may move in the updates of one rollout before they stop learning; null
    for no bound."""
    loss: Literal["ppo_clip", "gspo", "cispo", "reinforce"] = "ppo_clip"
    """`ppo_clip` bounds each update by token, `gspo` by sequence; `cispo` bounds how much a token
    weighs and silences none; `reinforce` is plain policy gradient."""
    clip_low: float = Field(default=0.2, gt=0.0, le=1.0)
    """Probability ratios below 1 - clip_low get no gradient (`cispo`: are raised to it). Those of
    `gspo` are means over a sequence, and its bounds about 3e-4."""
    clip_high: float = Field(default=0.2, gt=0.0)
    """Probability ratios above 1 + clip_high get no gradient (`cispo`: are lowered to it)."""
    dual_clip: float | None = Field(default=None, gt=1.0)
    """`ppo_clip`: bounds the loss of negative advantages at this multiple; off by default."""
    reduction: Literal["token_mean", "seq_mean_token_mean", "seq_mean_token_sum_norm"] = (
        "token_mean"
    )
    """The divisor of the summed loss."""
    norm_length: int = Field(default=1024, gt=0)
    """`seq_mean_token_sum_norm`: the constant that replaces the length of a sequence."""
    correction: Literal["none", "tis", "icepop", "sequence_mask"] = "none"
    """Weighs tokens by how much likelier the trainer finds them than the sampler did: `tis` bounds
    the weight, `icepop` drops tokens out of bounds, `sequence_mask` drops whole sequences. `tis`
    unless given where rollouts run ahead of the update (trainer.mode, trainer.num_extra_groups)."""
    correction_cap: float = Field(default=2.0, gt=0.0)
    """`tis`: the largest weight; `icepop`, `sequence_mask`: the largest ratio that is kept. A
    sequence's is the geometric mean over its tokens, and bounds within 1% of 1 are usual for it."""
    correction_floor: float = Field(default=0.5, ge=0.0, validate_default=True)
    """`icepop`, `sequence_mask`: the smallest ratio that is kept."""

    kl_coef: float = Field(default=0.0, ge=0.0)
    """Weight of the divergence from the model that training started from; 0 loads no such model."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Whether the divergence is added to the loss of each token, or taken off its reward."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """How the divergence is estimated from sampled tokens; in the loss `k1` has a mean gradient of
    0, and `k2` that of the divergence."""

    @field_validator(*HAS_EFFECT)
    @classmethod
    def _has_effect(cls, value: Any, info: ValidationInfo) -> Any:
        choice, users = HAS_EFFECT[info.field_name or ""]
        chosen = info.data.get(choice)
        unset = cls.model_fields[info.field_name or ""].default
        if value != unset and chosen is not None and chosen not in users:
            raise ValueError(f"has no effect with {choice} '{chosen}'; remove it")
        return value

    @field_validator("kl_in", "kl_estimator")
    @classmethod
    def _is_weighed(cls, value: str, info: ValidationInfo) -> str:
        unset = cls.model_fields[info.field_name or ""].default
        if value != unset and info.data.get("kl_coef") == 0.0:
            raise ValueError("has no effect while kl_coef is 0; set that, or remove it")
        return value

    @field_validator("correction_floor")
    @classmethod
    def _below_the_cap(cls, floor: float, info: ValidationInfo) -> float:
        cap = info.data.get("correction_cap")
        if info.data.get("correction") in BOUNDED and cap is not None and floor >= cap:
            raise ValueError(f"must be below correction_cap, {cap}")
        return floor

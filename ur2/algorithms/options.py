"""Options of the maths."""

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from ur2.options import Options

GROUP_RELATIVE = frozenset({"grpo", "dr_grpo", "rloo", "reinforce_pp_baseline"})
"""Estimators that compare a group's samples: equal rewards give them no signal."""


class AlgorithmOptions(Options):
    """How rewards become a gradient."""

    estimator: Literal[
        "grpo", "dr_grpo", "rloo", "reinforce", "reinforce_pp", "reinforce_pp_baseline"
    ] = "grpo"
    """How rewards become advantages."""
    gamma: float = Field(default=1.0, gt=0.0, le=1.0)
    """Discount per policy token; below 1 only with `reinforce_pp`."""
    loss: Literal["ppo_clip", "reinforce"] = "ppo_clip"
    """`ppo_clip` bounds each update; `reinforce` is plain policy gradient."""
    clip_low: float = Field(default=0.2, gt=0.0, le=1.0)
    """`ppo_clip`: probability ratios below 1 - clip_low get no gradient."""
    clip_high: float = Field(default=0.2, gt=0.0)
    """`ppo_clip`: probability ratios above 1 + clip_high get no gradient."""
    dual_clip: float | None = Field(default=None, gt=1.0)
    """`ppo_clip`: bounds the loss of negative advantages at this multiple; off by default."""
    reduction: Literal["token_mean", "seq_mean_token_mean", "seq_mean_token_sum_norm"] = (
        "token_mean"
    )
    """What the summed loss is divided by."""
    norm_length: int = Field(default=1024, gt=0)
    """`seq_mean_token_sum_norm`: the constant that replaces the length of a sequence."""
    correction: Literal["none", "tis"] = "none"
    """`tis` weighs tokens by how much likelier the trainer finds them than the sampler did."""
    correction_cap: float = Field(default=2.0, gt=0.0)
    """`tis`: the largest weight."""

    @field_validator("gamma")
    @classmethod
    def _gamma_has_effect(cls, gamma: float, info: ValidationInfo) -> float:
        estimator = info.data.get("estimator")
        if gamma != 1.0 and estimator not in (None, "reinforce_pp"):
            raise ValueError(f"a discount has no effect with estimator '{estimator}'; remove it")
        return gamma

"""Options of the maths."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from ur2.options import Options
from ur2.types import Status

if TYPE_CHECKING:
    from ur2.algorithms.advantages import EstimatorFacts
    from ur2.algorithms.losses import LossFacts

BOUNDED = frozenset({"icepop", "sequence_mask"})
NEEDS: Mapping[str, tuple[str, frozenset[str]]] = {
    "norm_length": ("reduction", frozenset({"seq_mean_token_sum_norm"})),
    "correction_cap": ("correction", BOUNDED | {"tis"}),
    "correction_floor": ("correction", BOUNDED),
}
"""Option -> (the choice it belongs to, with which it does something)."""
OF_ESTIMATOR = ("gamma", "lam", "value_clip", "whiten")
OF_LOSS = ("clip_low", "clip_high", "dual_clip")


class AlgorithmOptions(Options):
    """How rewards become a gradient."""

    estimator: str = "grpo"
    """How rewards become advantages: grpo, dr_grpo, rloo, reinforce, reinforce_pp,
    reinforce_pp_baseline, gae (which trains a critic beside the policy), or `package.module:Name`
    of an `EstimatorFacts` or a function of your own."""
    credit: str = "trajectory"
    """Which samples a trajectory becomes, and with which reward: `trajectory` (a sample each, which
    has to be one context), `context` (a sample per context, with what was earned in it),
    `last_tries` (the same, without turns that were asked for again), `shared` (a sample per
    context, each with the trajectory's reward), or `package.module:Name`."""
    mask_statuses: tuple[Status, ...] = (Status.TOOL_FAILED,)
    """Endings whose trajectories an update does without: they leave the rewards of their group and
    the divisors of the loss. `tool_failed` is no doing of the policy's (and is in no accuracy and
    no outcome of the curriculum, whatever stands here); add `truncated` where a reply that was cut
    off should teach nothing."""
    frozen_roles: tuple[str, ...] = ()
    """Roles that play, and are compared, but do not learn."""
    gamma: float = Field(default=1.0, gt=0.0, le=1.0)
    """Discount per policy token; below 1 only with `reinforce_pp` and `gae`."""
    lam: float = Field(default=1.0, ge=0.0, le=1.0)
    """`gae`: how far an advantage trusts rewards over the critic, 1 fully."""
    value_clip: float | None = Field(default=0.2, gt=0.0)
    """`gae`: how far values may move in the updates of one rollout before they stop learning; null
    for no bound."""
    whiten: bool = False
    """`gae`: give the advantages of a batch's policy tokens mean 0 and standard deviation 1, as
    most PPO does; else they are in units of the reward. The critic learns the same either way."""
    loss: str = "ppo_clip"
    """`ppo_clip` bounds each update by token, `gspo` by sequence; `cispo` bounds how much a token
    weighs and silences none; `reinforce` is plain policy gradient; or
    `package.module:Name` of a `LossFacts` or a function of your own."""
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

    @property
    def compares(self) -> str:
        """The measure of a reward: `group`, `batch`, `critic` or `nothing`."""
        return _estimator(self.estimator).compares

    @property
    def has_critic(self) -> bool:
        """Whether a critic is trained beside the policy."""
        return self.compares == "critic"

    @field_validator("estimator")
    @classmethod
    def _is_an_estimator(cls, name: str) -> str:
        _estimator(name)
        return name

    @field_validator("loss")
    @classmethod
    def _is_a_loss(cls, name: str) -> str:
        _loss(name)
        return name

    @field_validator(*NEEDS, *OF_ESTIMATOR, *OF_LOSS)
    @classmethod
    def _has_effect(cls, value: Any, info: ValidationInfo) -> Any:
        option = info.field_name or ""
        if value == cls.model_fields[option].default:
            return value
        if option in NEEDS:
            choice, users = NEEDS[option]
            chosen = info.data.get(choice)
            has_effect = chosen in users
        else:
            choice = "estimator" if option in OF_ESTIMATOR else "loss"
            chosen = info.data.get(choice)
            facts = _estimator if choice == "estimator" else _loss
            has_effect = chosen is None or option in facts(chosen).uses
        if chosen is not None and not has_effect:
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


def _estimator(name: str) -> "EstimatorFacts":
    from ur2.algorithms.advantages import estimator_facts  # torch, which options do without

    return estimator_facts(name)


def _loss(name: str) -> "LossFacts":
    from ur2.algorithms.losses import loss_facts

    return loss_facts(name)

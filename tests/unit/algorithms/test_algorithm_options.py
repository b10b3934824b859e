"""Names in the options are names that exist, and an option without effect is refused."""

from typing import get_args

import pytest

from ur2.algorithms.corrections import CORRECTIONS
from ur2.algorithms.kl import KL_ESTIMATORS
from ur2.algorithms.options import AlgorithmOptions
from ur2.algorithms.reductions import REDUCTIONS
from ur2.errors import InputError


@pytest.mark.parametrize(
    ("field", "registry"),
    [
        ("reduction", REDUCTIONS),
        ("correction", CORRECTIONS),
        ("kl_estimator", KL_ESTIMATORS),
    ],
)
def test_every_name_of_the_maths_is_an_option(field: str, registry: dict[str, object]) -> None:
    assert set(get_args(AlgorithmOptions.model_fields[field].annotation)) == set(registry)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "grpo", "gamma": 0.9}, r"gamma.*no effect with estimator 'grpo'"),
        ({"estimator": "rloo", "lam": 0.9}, r"lam.*no effect with estimator 'rloo'"),
        ({"whiten": True}, r"whiten.*no effect with estimator 'grpo'"),
        ({"value_clip": None}, r"value_clip.*no effect with estimator 'grpo'"),
        ({"kl_in": "reward"}, r"kl_in.*no effect while kl_coef is 0"),
        ({"kl_estimator": "k1"}, r"kl_estimator.*no effect while kl_coef is 0"),
        ({"loss": "reinforce", "clip_low": 0.1}, r"clip_low.*no effect with loss 'reinforce'"),
        ({"loss": "reinforce", "clip_high": 0.1}, r"clip_high.*no effect with loss 'reinforce'"),
        ({"loss": "gspo", "dual_clip": 3.0}, r"dual_clip.*no effect with loss 'gspo'"),
        ({"norm_length": 7}, r"norm_length.*no effect with reduction 'token_mean'"),
        ({"correction_cap": 3.0}, r"correction_cap.*no effect with correction 'none'"),
        ({"correction": "tis", "correction_floor": 0.1}, r"correction_floor.*no effect.*'tis'"),
        ({"correction": "icepop", "correction_cap": 0.4}, r"correction_floor.*below.*cap, 0.4"),
    ],
)
def test_a_value_without_effect_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AlgorithmOptions.load(options, where="algorithm")


@pytest.mark.parametrize(
    "options",
    [
        {"estimator": "reinforce_pp", "gamma": 0.9},
        {"loss": "cispo", "clip_low": 1.0, "clip_high": 4.0},
        {"estimator": "gae", "whiten": True},
        {"estimator": "gae", "gamma": 0.99, "lam": 0.95, "value_clip": None},
        {"kl_coef": 0.01, "kl_in": "reward", "kl_estimator": "k1"},
        {"dual_clip": 3.0},
        {"reduction": "seq_mean_token_sum_norm", "norm_length": 7},
        {"correction": "icepop", "correction_floor": 0.1, "correction_cap": 5.0},
        {"correction": "sequence_mask", "correction_floor": 0.99, "correction_cap": 1.01},
    ],
)
def test_a_value_with_effect_is_kept(options: dict[str, object]) -> None:
    loaded = AlgorithmOptions.load(options, where="algorithm").model_dump()
    assert options.items() <= loaded.items()


def test_what_a_run_wrote_down_loads_again() -> None:
    options = AlgorithmOptions(loss="reinforce", reduction="seq_mean_token_mean")
    assert AlgorithmOptions.load(options.model_dump(mode="json"), where="algorithm") == options


def test_an_unknown_estimator_is_refused() -> None:
    with pytest.raises(InputError, match="estimator"):
        AlgorithmOptions.load({"estimator": "gae2"}, where="algorithm")

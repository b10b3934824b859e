"""Names in the options are names that exist, and an option without effect is refused."""

from typing import get_args

import pytest

from ur2.algorithms.advantages import ESTIMATORS
from ur2.algorithms.corrections import CORRECTIONS
from ur2.algorithms.losses import LOSSES
from ur2.algorithms.options import AlgorithmOptions
from ur2.algorithms.reductions import REDUCTIONS
from ur2.errors import InputError


@pytest.mark.parametrize(
    ("field", "registry", "unreachable"),
    [
        ("estimator", ESTIMATORS, {"gae"}),
        ("loss", LOSSES, set()),
        ("reduction", REDUCTIONS, set()),
        ("correction", CORRECTIONS, set()),
    ],
)
def test_every_name_of_the_options_is_registered(
    field: str, registry: dict[str, object], unreachable: set[str]
) -> None:
    names = set(get_args(AlgorithmOptions.model_fields[field].annotation))
    assert names == set(registry) - unreachable


def test_a_discount_without_effect_is_refused() -> None:
    with pytest.raises(InputError, match=r"gamma.*no effect with estimator 'grpo'"):
        AlgorithmOptions.load({"estimator": "grpo", "gamma": 0.9}, where="algorithm")
    kept = AlgorithmOptions.load({"estimator": "reinforce_pp", "gamma": 0.9}, where="algorithm")
    assert kept.gamma == 0.9


def test_an_unknown_estimator_is_refused() -> None:
    with pytest.raises(InputError, match="estimator"):
        AlgorithmOptions.load({"estimator": "gae2"}, where="algorithm")

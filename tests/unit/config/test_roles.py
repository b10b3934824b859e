"""Options that name roles, against the roles of the environment."""

import sys
from types import ModuleType

import pytest

from ur2.config.load import compose
from ur2.config.preflight import check_options
from ur2.errors import InputError
from ur2.options import Options


class Pipeline:
    """A game of two roles."""

    Options = Options
    roles = ("rewriter", "generator")

    def opening(self):
        raise NotImplementedError

    async def react(self, turn):
        raise NotImplementedError


@pytest.fixture
def check(monkeypatch):
    module = ModuleType("pipeline")
    module.Pipeline = Pipeline
    monkeypatch.setitem(sys.modules, "pipeline", module)

    def check(*overrides):
        game = ["environment.name=pipeline:Pipeline", "rollout.engine.name=hf"]
        check_options(compose(["+experiment=smoke", *game, *overrides]))

    return check


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["algorithm.frozen_roles=[judge]"], "no role is called judge.*asks rewriter, generator"),
        (["algorithm.frozen_roles=[rewriter,generator]"], "leaves nothing to train"),
        (["algorithm.frozen_roles=[policy]", "environment.name=search"], "nothing to train"),
        (["algorithm.frozen_roles=[rewriter]"], None),
    ],
)
def test_options_name_roles_that_there_are_and_leave_one_to_learn(check, overrides, said):
    if said is None:
        check(*overrides)
        return
    with pytest.raises(InputError, match=said):
        check(*overrides)

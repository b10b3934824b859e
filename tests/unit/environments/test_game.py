"""The choice of a game."""

import pytest

from ur2.environments.game import ENVIRONMENTS, Game
from ur2.environments.options import EnvironmentOptions
from ur2.errors import InputError


@pytest.mark.parametrize("name", sorted(ENVIRONMENTS))
def test_options_that_no_game_reads_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"those of environment\.{name}"):
        Game.load(EnvironmentOptions(name=name, options={"limit": 3}))


@pytest.mark.parametrize("name", sorted(ENVIRONMENTS))
def test_a_game_of_ours_plays_by_its_own_options(name: str) -> None:
    options = EnvironmentOptions(name=name)
    assert Game.load(options).options is getattr(options, name)


def test_a_class_that_is_no_game_is_named_with_what_it_lacks() -> None:
    with pytest.raises(InputError, match="'json:JSONDecoder' has no opening, react, Options"):
        Game.load(EnvironmentOptions(name="json:JSONDecoder"))

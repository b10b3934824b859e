"""The page on environments of one's own is run as it stands, from a package outside the project."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

import ur2.environments
from ur2.config.load import compose
from ur2.config.preflight import check_options
from ur2.environments.game import Game
from ur2.testing import check_environment

PAGE = (Path(ur2.environments.__file__).parent / "README.md").read_text()
GAME, USE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = re.findall(r"python -m ur2.train (.*)", PAGE)
(CONFIG,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(autouse=True)
def package(tmp_path, monkeypatch):
    (tmp_path / "my_games").mkdir()
    (tmp_path / "my_games" / "__init__.py").touch()
    (tmp_path / "my_games" / "guess.py").write_text(GAME)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_games"]:
        del sys.modules[name]


def test_the_game_is_as_short_as_the_title_says():
    assert len(GAME.splitlines()) <= 25


def test_the_game_keeps_the_contract():
    from my_games.guess import Guess

    report = check_environment(Guess)
    assert report.ok, str(report)


async def test_an_episode_plays_as_the_page_shows(capsys):
    names = {}
    exec(f"async def main():\n{textwrap.indent(USE, '    ')}", names)
    await names["main"]()
    shown = capsys.readouterr().out
    assert "nothing found" in shown
    assert "answered Paris [0.0, -0.1, 0.0, 0.0]" in shown


def test_the_first_command_of_the_page_chooses_the_game():
    options = compose(COMMANDS[0].split())
    check_options(options)
    game = Game.load(options.environment)
    assert game.kind.__name__ == "Guess"
    assert game.options.max_guesses == 4


def test_the_second_command_of_the_page_composes_its_experiment(tmp_path):
    folder = tmp_path / "my_games" / "configs" / "experiment"
    folder.mkdir(parents=True)
    (folder / "guess.yaml").write_text(CONFIG)
    command = [sys.executable, "-m", "ur2.train", *COMMANDS[1].split(), "--cfg", "job"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    tree = yaml.safe_load(done.stdout)
    assert tree["experiment"] == "guess"
    assert tree["environment"]["name"] == "my_games.guess:Guess"
    assert tree["environment"]["options"] == {"max_guesses": 4}
    assert tree["trainer"]["steps"] == 2

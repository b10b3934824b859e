"""Import paths in the place of names."""

import asyncio
import json
import sys
from types import ModuleType

import pytest

from ur2.errors import InputError, PluginError
from ur2.options import Options
from ur2.plugins import blame, blaming, find, find_facts, own_options, packages_in, reason

KNOWN = {"ours": 1, "other": 2}


class Facts:
    def __init__(self, value=None):
        self.value = value


@pytest.fixture(autouse=True)
def mine(monkeypatch):
    module = ModuleType("mine")
    module.FACTS = Facts(3)
    module.function = lambda: 4
    module.Class = Facts
    monkeypatch.setitem(sys.modules, "mine", module)


def test_a_name_of_ours_is_found_before_anything_is_imported():
    assert find("ours", KNOWN, key="k") == 1
    assert find("mine:function", KNOWN, key="k")() == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("our", r"k: 'our' is unknown \(did you mean 'ours'\?\); .* package.module:Name"),
        ("mine:Nothing", "k: 'mine:Nothing' cannot be imported: AttributeError"),
        ("not_there:X", "cannot be imported: ModuleNotFoundError"),
        (":X", "cannot be imported: ValueError"),
    ],
)
def test_what_stands_for_nothing_is_one_clear_message(name, message):
    with pytest.raises(InputError, match=message):
        find(name, KNOWN, key="k")


def test_a_module_that_breaks_on_import_is_named(tmp_path, monkeypatch):
    (tmp_path / "broken_games.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match="'broken_games:X' cannot be imported: ZeroDivisionError"):
        find("broken_games:X", KNOWN, key="k")


def test_methods_that_are_missing_are_all_named():
    with pytest.raises(InputError, match="k: 'mine:FACTS' has no opening, react"):
        find("mine:FACTS", {}, key="k", methods=("opening", "react"))


def test_an_entry_of_a_users_is_as_good_as_ours_and_a_function_becomes_one():
    known = {"ours": Facts(1)}
    assert find_facts("ours", known, Facts, Facts, key="k").value == 1
    assert find_facts("mine:FACTS", known, Facts, Facts, key="k").value == 3
    assert find_facts("mine:function", known, Facts, Facts, key="k").value() == 4
    with pytest.raises(InputError, match="'mine:Class' is neither a Facts nor a function"):
        find_facts("mine:Class", known, Facts, Facts, key="k")


class Sized(Options):
    size: int = 1


def test_options_of_ones_own_are_strict():
    assert own_options(Sized, {"size": 2}, where="w").size == 2
    assert own_options(None, {}, where="w") is None
    with pytest.raises(InputError, match=r"w: unknown key 'sise' \(did you mean 'size'\?\)"):
        own_options(Sized, {"sise": 2}, where="w")
    with pytest.raises(InputError, match="w: there are no such options; remove size"):
        own_options(None, {"size": 2}, where="w")


def test_a_failure_is_told_with_its_place():
    try:
        {}["x"]
    except KeyError as error:
        shown = str(blame("grader 'mine:g'", error))
    assert shown.startswith("grader 'mine:g': KeyError: 'x' (test_plugins.py, line ")


@pytest.mark.parametrize(
    ("value", "packages"),
    [
        ("my_games.guess:Guess", ["my_games"]),
        ("mine:FACTS", ["mine"]),
        ("data/x.jsonl?adapter=my_rows.trivia:row", ["my_rows"]),
        ("hf:a/b#c/d?task=qa&adapter=my_rows:row&n=1", ["my_rows"]),
        ("hf:a/b", []),
        ("http://host:8000/v1", []),
        ("host:6379", []),
        ("a sentence: with a colon", []),
        (7, []),
        (None, []),
    ],
)
def test_packages_of_import_paths_are_found_in_options(value, packages):
    assert list(packages_in({"a": [{"b": value}]})) == packages


def test_a_failure_within_a_library_is_told_with_the_line_that_called_it():
    place = r"mine: JSONDecodeError: .*\(test_plugins.py, line \d+"
    with pytest.raises(PluginError, match=place), blaming("mine"):
        json.loads("{")


@pytest.mark.parametrize("error", [SystemExit("bye"), asyncio.CancelledError("bye")])
def test_an_exit_is_a_failure_like_any_other(error):
    with pytest.raises(PluginError, match=f"mine: {type(error).__name__}: bye"), blaming("mine"):
        raise error


def test_a_message_of_someone_elses_is_one_line_of_bounded_length():
    assert reason(ValueError("a\n\n b")) == "ValueError: a b"
    assert len(reason(ValueError("x" * 10_000))) < 600
    assert reason(ExceptionGroup("all", [KeyError("k")])) == "KeyError: 'k'"

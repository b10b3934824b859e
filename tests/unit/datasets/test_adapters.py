"""Rows of any shape, through a function of a user's own."""

import json
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ur2.datasets import inspect, load_questions
from ur2.datasets.adapters import AdapterFacts
from ur2.datasets.sources import parse_source
from ur2.errors import InputError
from ur2.options import Options
from ur2.types import Level

ROWS = [{"q": "Capital?", "a": "Paris"}, {"q": "River?", "a": "Seine", "hard": True}]


class Trivia(Options):
    prefix: str = ""
    max_words: int = 9


def with_options(row: dict[str, Any], options: Trivia) -> dict[str, Any] | None:
    if len(row["q"].split()) > options.max_words:
        return None
    return {"task": "qa", "text": options.prefix + row["q"], "answers": (row["a"],)}


@pytest.fixture(autouse=True)
def mine(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("mine")
    module.trivia = lambda row: {
        "task": "qa",
        "text": row["q"],
        "answers": [row["a"]],
        "level": "hard" if row.get("hard") else "easy",
    }
    module.plain = lambda row: {"text": row["q"], "answers": [row["a"]]}
    module.only_hard = lambda row: module.trivia(row) if row.get("hard") else None
    module.wrong = lambda row: {"task": "qa", "text": row["question"], "answers": [row["a"]]}
    module.halfway = lambda row: {"task": "qa", "text": row["q"], "answer": row["a"]}
    module.TRIVIA = AdapterFacts(adapt=with_options, options=Trivia)
    monkeypatch.setitem(sys.modules, "mine", module)


@pytest.fixture
def rows(tmp_path: Path) -> str:
    file = tmp_path / "t.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(file)


def test_a_function_makes_questions_of_rows(rows: str) -> None:
    first, second = load_questions(f"{rows}?adapter=mine:trivia")
    assert (first.id, first.text, first.answers) == ("t-1", "Capital?", ("Paris",))
    assert (first.level, second.level) == (Level.EASY, Level.HARD)


def test_an_adapter_sees_every_column_of_a_table(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS[:1]), tmp_path / "t.parquet")
    (question,) = load_questions(f"{tmp_path / 't.parquet'}?adapter=mine:trivia")
    assert question.text == "Capital?"


def test_what_an_adapter_leaves_open_is_filled_in(rows: str) -> None:
    first, _ = load_questions(f"{rows}?task=math&adapter=mine:plain")
    assert (first.task, first.level) == ("math", Level.MEDIUM)


def test_an_adapter_may_leave_rows_out(rows: str) -> None:
    (question,) = load_questions(f"{rows}?adapter=mine:only_hard")
    assert question.id == "t-2"


def test_an_adapter_has_options_of_its_own(rows: str) -> None:
    first, _ = load_questions(f"{rows}?adapter=mine:TRIVIA&prefix=The &max_words=3")
    assert first.text == "The Capital?"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("adapter=mine:nothing", "'mine:nothing' cannot be imported"),
        ("adapter=nothing", "'nothing' is unknown; .* package.module:Name"),
        ("adapter=mine:trivia&a=1", "there are no such options; remove a"),
        ("adapter=mine:TRIVIA&max_word=1", "unknown key 'max_word' .*max_words"),
        ("adapter=mine:TRIVIA&max_words=x", "'max_words'"),
        ("adaptor=mine:trivia", r"\?adaptor=mine:trivia' is not understood"),
    ],
)
def test_adapters_that_do_not_fit_are_named_with_their_file(
    rows: str, query: str, message: str
) -> None:
    with pytest.raises(InputError, match=rf"t\.jsonl\?.*{message}"):
        load_questions(f"{rows}?{query}")


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ("wrong", r"line 1: adapter 'mine:wrong': KeyError: 'question' \(test_adapters.py, line"),
        ("halfway", "line 2: answers: is missing; add it; answer: is no field"),
        ("plain", "line 1: task: is missing"),
    ],
)
def test_rows_that_an_adapter_cannot_read_are_named(rows: str, adapter: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"t\.jsonl.*2 bad row(?s:.)*{message}"):
        load_questions(f"{rows}?adapter=mine:{adapter}")


def test_a_name_tells_its_adapter_and_its_options() -> None:
    source = parse_source("hf:a/b#main/dev?adapter=mine:TRIVIA&max_words=3")
    assert (source.path, source.adapter) == ("a/b", "mine:TRIVIA")
    assert source.adapter_options == {"max_words": 3}


def test_the_function_of_the_readme_reads_rows_from_a_package_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parents[3] / "data" / "README.md").read_text()
    code = text.partition("# my_games/rows.py\n")[2].partition("\n\n")[0]
    package = tmp_path / "my_games"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "rows.py").write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "trivia.jsonl"
    file.write_text('{"q": "Capital?", "a": "Paris"}\n')
    (question,) = load_questions(f"{file}?adapter=my_games.rows:trivia")
    assert (question.text, question.answers) == ("Capital?", ("Paris",))
    inspect.main([f"{file}?adapter=my_games.rows:trivia"])
    assert "first of qa: Capital?\n  answers: Paris (medium)" in capsys.readouterr().out

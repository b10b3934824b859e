"""Twenty files that are wrong in ways that files are wrong: each one exit code and one message."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ur2.datasets import inspect, load_questions
from ur2.errors import EXIT_BAD_INPUT, run_entry

GOOD = {"idx": 1, "question": "Who?", "answer": "me", "source": "rag", "level": "easy"}
CHOICE = {"idx": 1, "question": "Which?", "answer": "B", "options": ["x", "y"], "source": "law"}
NATIVE = {"id": "a", "task": "qa", "text": "?", "answers": ["x"], "level": "easy"}


def lines(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def without(row: dict[str, object], field: str) -> dict[str, object]:
    return {name: value for name, value in row.items() if name != field}


MALFORMED: dict[str, tuple[str, bytes, str]] = {
    "truncated JSON": ("a.jsonl", lines(GOOD)[:-5], "line 1: not JSON"),
    "truncated compression": ("a.jsonl.gz", gzip.compress(lines(GOOD))[:-6], "cannot be read"),
    "an empty file": ("a.jsonl", b"", "holds no rows"),
    "only blank lines": ("a.jsonl", b"\n \r\n\n", "holds no rows"),
    "an empty array": ("a.json", b"[]", "holds no rows"),
    "a truncated array": ("a.json", b"[" + lines(GOOD), "not a JSON array"),
    "a question that is a number": ("a.jsonl", lines(GOOD | {"question": 5}), "question: must be"),
    "an answer that is a list of lists": (
        "a.jsonl",
        lines(GOOD | {"answer": [["x"]]}),
        "answer.0: must be a text",
    ),
    "a blank question": ("a.jsonl", lines(GOOD | {"question": " \t"}), "question: is blank"),
    "no gold": ("a.jsonl", lines(without(GOOD, "answer")), "answer: is missing"),
    "an empty list of golds": ("a.jsonl", lines(NATIVE | {"answers": []}), "answers: has too few"),
    "missing options": ("a.jsonl", lines(without(CHOICE, "options")), "the row has no options"),
    "options that are one text": ("a.jsonl", lines(CHOICE | {"options": "x y"}), "options: must"),
    "a gold not among the options": ("a.jsonl", lines(CHOICE | {"answer": "E"}), "one of AB"),
    "more options than letters": (
        "a.jsonl",
        lines(CHOICE | {"options": ["x"] * 27}),
        "27 are more",
    ),
    "duplicate ids": ("a.jsonl", lines(GOOD, GOOD), "line 2: id: 'a-1' is already used on line 1"),
    "an unknown source": ("a.jsonl", lines(GOOD | {"source": "web"}), "known: math, rag"),
    "an unknown level": ("a.jsonl", lines(GOOD | {"level": "hart"}), "known: easy, medium, hard"),
    "Latin-1 bytes": ("a.jsonl", '{"question": "café?"}'.encode("latin-1"), "not UTF-8"),
    "UTF-16": ("a.jsonl", lines(GOOD).decode().encode("utf-16"), "not UTF-8"),
    "a line of 10 MB": ("a.jsonl", lines(GOOD | {"question": "x" * 10_000_000}), "longer than"),
    "nested arrays": ("a.jsonl", b"[" * 10_000 + b"]" * 10_000, "not JSON: recursion limit"),
    "a list for a row": ("a.jsonl", lines([GOOD, [GOOD]]), "a JSON object is needed, not list"),
    "a gold nested in lists": ("a.jsonl", lines(GOOD | {"answer": [["x"]]}), "answer.0: must be"),
    "NaN": ("a.jsonl", lines(GOOD | {"level": float("nan")}), "not JSON"),
    "half a surrogate pair": ("a.jsonl", b'{"question": "\\ud800", "answer": "x"}', "not JSON"),
    "an unknown field": ("a.jsonl", lines(NATIVE | {"lvl": 1}), "lvl: is no field"),
    "no known schema": ("a.jsonl", lines({"prompt": "?", "gold": "x"}), "prompt, gold"),
    "one object over many lines": ("a.json", json.dumps(GOOD, indent=1).encode(), "not JSON lines"),
    "no parquet": ("a.parquet", b"PAR1 but not really", "not a parquet file"),
}


def report(run: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_:
        run_entry(run)
    assert exit_.value.code == EXIT_BAD_INPUT
    return capsys.readouterr().err


@pytest.mark.parametrize(("name", "content", "said"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_file_ends_the_command_with_code_2_and_one_clear_message(
    name: str, content: bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    message = report(lambda: inspect.main([str(path)]), capsys)
    assert message.startswith(f"error: {path}")
    assert said in message
    assert "Traceback" not in message
    assert len(message) < 1000


def test_lines_after_a_long_one_keep_their_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(GOOD | {"question": "x" * 9_000_000}, GOOD, {"question": "?"}))
    message = report(lambda: inspect.main([str(path)]), capsys)
    assert "2 bad row(s)" in message
    assert "line 1: longer than" in message
    assert "line 3: answer: is missing" in message


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = report(lambda: inspect.main([str(tmp_path / "none.jsonl")]), capsys)
    assert "none.jsonl; check the path" in message


@pytest.mark.parametrize(
    "content",
    [b"\xef\xbb\xbf" + lines(GOOD), lines(GOOD).replace(b"\n", b"\r\n"), b"\n\n" + lines(GOOD)],
    ids=["byte order mark", "carriage returns", "blank lines"],
)
def test_what_editors_leave_in_a_file_does_no_harm(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    assert [question.text for question in load_questions(str(path))] == ["Who?"]


def test_one_bad_file_does_not_hide_the_good_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_bytes(lines(GOOD, GOOD | {"idx": 2, "level": "hard"}))
    bad.write_bytes(b"{\n")
    with pytest.raises(SystemExit):
        run_entry(lambda: inspect.main([str(bad), str(good)]))
    shown = capsys.readouterr()
    assert "bad.jsonl: 1 bad row(s)" in shown.err
    assert "good.jsonl: 2 questions" in shown.out
    cells = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in shown.out.splitlines()
        if "│" in line
    ]
    assert ["rag", "1", "0", "1", "0", "2"] in cells
    assert ["qa", "1", "0", "1", "0", "2"] in cells


def test_subjects_are_counted_where_there_are_some(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jsonl"
    rows = [CHOICE | {"idx": i, "category": name} for i, name in enumerate(["law", "law", "art"])]
    path.write_bytes(lines(*rows))
    inspect.main([str(path)])
    shown = [line.replace(" ", "") for line in capsys.readouterr().out.splitlines()]
    assert "│law│0│2│0│0│2│" in shown
    assert "│art│0│1│0│0│1│" in shown

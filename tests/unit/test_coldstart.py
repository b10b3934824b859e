import json
from pathlib import Path

import pytest

from ur2.coldstart import coldstart
from ur2.config.load import compose
from ur2.config.schema import RunOptions
from ur2.errors import InputError

DEMONSTRATION = {
    "question": {
        "id": "q",
        "task": "qa",
        "text": "Where?",
        "options": [],
        "answers": ["here"],
        "level": "easy",
    },
    "retrieval": False,
    "turns": [{"thought": "known", "answer": "here"}],
}


def options(tmp_path: Path, *overrides: str) -> RunOptions:
    file = tmp_path / "demonstrations.jsonl"
    file.write_text(json.dumps(DEMONSTRATION) + "\n")
    return compose(
        [
            "+experiment=smoke",
            f"coldstart.phases=[{{demonstrations: {file}}}]",
            f"coldstart.scratch_texts=[{file}]",
            f"coldstart.out={tmp_path / 'model'}",
            *overrides,
        ]
    )


def test_a_dry_run_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coldstart(options(tmp_path, "dry_run=true"))
    assert "1 demonstrations" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["demonstrations.jsonl"]


def test_a_folder_with_a_cut_record_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/coldstart.json").write_text('{"fingerpr')
    with pytest.raises(InputError, match="name another"):
        coldstart(options(tmp_path))


def test_no_phases_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"coldstart\.phases"):
        coldstart(options(tmp_path, "coldstart.phases=[]"))


def test_texts_that_are_no_json_are_named(tmp_path: Path) -> None:
    (tmp_path / "texts").write_bytes(b"\xd0\n")
    with pytest.raises(InputError, match="texts' is not JSON lines"):
        coldstart(options(tmp_path, f"coldstart.scratch_texts=[{tmp_path / 'texts'}]"))


def test_demonstrations_that_teach_nothing_are_named_before_anything_starts(tmp_path: Path) -> None:
    wanted = options(tmp_path)
    shown = DEMONSTRATION | {"turns": [{"thought": "known", "answer": "there", "learn": False}]}
    (tmp_path / "demonstrations.jsonl").write_text(json.dumps(shown) + "\n")
    with pytest.raises(InputError, match="has nothing to train on"):
        coldstart(wanted)

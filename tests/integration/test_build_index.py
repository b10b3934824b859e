"""scripts/build_index.sh from a user's own folder."""

import json
import subprocess
from pathlib import Path

import pytest

from ur2.retrieval.manifest import load_manifest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "scripts/build_index.sh"


def build(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", str(SCRIPT), *words], cwd=folder, capture_output=True, text=True, check=False
    )


def test_one_command_makes_an_index_and_says_how_to_serve_it(tmp_path: Path) -> None:
    rows = [{"key": str(i), "text": f"Town {i} lies on a river."} for i in range(3)]
    (tmp_path / "my passages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("my passages.jsonl", "my index", "id_field=key", "index=lexical")
    first, again = build(tmp_path, *words), build(tmp_path, *words)
    assert first.returncode == 0, first.stderr
    assert load_manifest(tmp_path / "my index/index").num_passages == 3
    assert r"serve it: python -m ur2.retrieval.serve index=my\ index/index" in first.stdout
    assert again.stdout.count("up to date: 3 passages") == 2


@pytest.mark.parametrize("words", [(), ("a.jsonl",), ("a.jsonl", "out", "in=b.jsonl")])
def test_wrong_words_are_refused_with_the_right_ones(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    refused = build(tmp_path, *words)
    assert refused.returncode == 2
    assert "SOURCE" in refused.stderr
    assert not list(tmp_path.iterdir())

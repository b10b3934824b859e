import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ur2.errors import InputError
from ur2.retrieval.corpus import (
    ROWS_PER_CHUNK,
    Corpus,
    corpus_sha256,
    embedded_text,
    read_passages,
    write_corpus,
)
from ur2.types import Passage

ONE_LINE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"))
TEXTS = st.text(st.characters(exclude_categories=["Cs"])).map(lambda text: f"x{text}")


def good(id_: str) -> str:
    return json.dumps({"id": id_, "title": "T", "text": "words"})


@pytest.mark.parametrize(
    ("bad_line", "complaint"),
    [
        ("not json", "Invalid JSON"),
        ('["a list"]', "object"),
        ('{"id": "b"}', "text must be a string"),
        ('{"text": "words"}', "id must be a string"),
        ('{"id": 7, "text": "words"}', "id must be a string"),
        ('{"id": "", "text": "words"}', "id must be a string"),
        ('{"id": "b", "text": "  "}', "text must be a string"),
        ('{"id": "b", "text": null}', "text must be a string"),
        ('{"id": "b", "text": "words", "title": "two\\nlines"}', "title must be a string of one"),
        (good("a"), "id 'a' is already on line 1"),
    ],
)
def test_a_malformed_row_is_named_by_file_and_line(
    tmp_path: Path, bad_line: str, complaint: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(f"{good('a')}\n\n{bad_line}\n")
    with pytest.raises(InputError) as raised:
        list(read_passages(path))
    assert f"{path}:3: " in str(raised.value)
    assert complaint in str(raised.value)


def test_bytes_that_are_no_utf8_are_an_error_of_their_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(good("a").encode() + b'\n{"id": "b", "text": "\xff"}\n')
    with pytest.raises(InputError, match=r"bad\.jsonl:2: "):
        list(read_passages(path))


def test_an_empty_corpus_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text("\n\n")
    with pytest.raises(InputError, match="holds no passages"):
        list(read_passages(path))


def test_a_missing_corpus_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.jsonl cannot be read: No such file"):
        corpus_sha256(tmp_path / "gone.jsonl")


def test_other_keys_of_a_row_are_ignored_and_a_title_is_optional(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"id": "a", "text": "words", "url": "http://x"}')
    assert list(read_passages(path)) == [Passage(id="a", text="words")]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(rows=st.lists(st.tuples(ONE_LINE, TEXTS), min_size=1, max_size=8))
def test_passages_survive_the_way_to_the_memory_map(
    tmp_path: Path, rows: list[tuple[str, str]]
) -> None:
    passages = [Passage(id=str(i), title=t, text=x) for i, (t, x) in enumerate(rows)]
    source, stored = tmp_path / "corpus.jsonl", tmp_path / "corpus.arrow"
    source.write_text(
        "".join(json.dumps({"id": p.id, "title": p.title, "text": p.text}) + "\n" for p in passages)
    )
    assert write_corpus(read_passages(source), stored, sha256="abc") == len(passages)
    corpus = Corpus(stored)
    assert corpus.sha256 == "abc"
    assert [corpus.passage(row) for row in range(len(corpus))] == passages
    assert corpus.texts(0, len(corpus)) == [embedded_text(p.title, p.text) for p in passages]


def test_texts_are_read_across_chunks(tmp_path: Path) -> None:
    num = ROWS_PER_CHUNK + 10
    write_corpus(
        (Passage(id=str(i), text=f"t{i}") for i in range(num)), tmp_path / "c", sha256="abc"
    )
    corpus = Corpus(tmp_path / "c")
    assert len(corpus) == num
    start = ROWS_PER_CHUNK - 5
    assert corpus.texts(start, num + 99) == [f"t{i}" for i in range(start, num)]
    assert corpus.passage(num - 1, 0.5) == Passage(id=str(num - 1), text=f"t{num - 1}", score=0.5)


@pytest.mark.parametrize("content", [None, b"", b"no arrow file"])
def test_a_missing_or_damaged_store_says_to_build_again(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "corpus.arrow"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="build the index again"):
        Corpus(path)

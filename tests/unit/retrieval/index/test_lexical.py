import random
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import pytest
import Stemmer
from pydantic import ValidationError

from ur2.errors import InputError
from ur2.retrieval.index import lexical
from ur2.retrieval.index.fusion import NO_ROW
from ur2.retrieval.index.lexical import LexicalIndex, build_lexical
from ur2.retrieval.manifest import LexicalSpec

WORDS = ["running", "cats", "dogs", "ran", "houses", "housing", "queen", "queens", "of", "the"]
WORDS += ["river", "banking", "bank", "stone"]


def spec_of(**parts: Any) -> LexicalSpec:
    return LexicalSpec(rule=2, **parts)


def random_texts(num: int) -> list[str]:
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=rng.randint(3, 30))) for _ in range(num)]


def index_of(texts: list[str], folder: Path, spec: LexicalSpec | None = None) -> LexicalIndex:
    build_lexical(spec or spec_of(), texts, len(texts), folder)
    return LexicalIndex(folder, spec.language if spec else "english")


@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (1.5, 0.75)])
def test_scores_equal_those_of_bm25s_however_the_texts_are_batched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, k1: float, b: float
) -> None:
    monkeypatch.setattr(lexical, "TEXTS_PER_ROUND", 17)
    texts, queries = random_texts(100), ["the running queen", "stones", "bank banks house"]
    score_QK, row_QK = index_of(texts, tmp_path / "l", spec_of(k1=k1, b=b)).search(queries, 100)
    stemmer = Stemmer.Stemmer("english")
    reference = bm25s.BM25(k1=k1, b=b, method="lucene")
    reference.index(
        bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False),
        show_progress=False,
    )
    tokens = bm25s.tokenize(
        queries, stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False
    )
    for query, stems in enumerate(tokens):
        wanted = reference.get_scores(stems)
        there = row_QK[query] != NO_ROW
        assert there.sum() == (wanted > 0).sum() > 0
        np.testing.assert_allclose(score_QK[query][there], wanted[row_QK[query][there]], rtol=1e-5)


def test_a_score_is_as_by_hand(tmp_path: Path) -> None:
    score_QK, row_QK = index_of(["queen queen river", "river"], tmp_path / "l").search(["queen"], 2)
    idf = np.log(1 + (2 - 1 + 0.5) / (1 + 0.5))
    assert row_QK.tolist() == [[0, NO_ROW]]
    assert score_QK[0, 0] == pytest.approx(idf * 2 / (2 + 0.9 * (1 - 0.4 + 0.4 * 3 / 2)))


def found(texts: list[str], query: str, folder: Path, **spec: Any) -> list[int]:
    rows = index_of(texts, folder, spec_of(**spec)).search([query], len(texts))[1][0]
    return [int(row) for row in rows if row != NO_ROW]


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("vitamin K", [1, 0]),
        ("X", [2]),
        ("It", [3]),
        ("the who", [4]),
        ("The Who!", [4]),
        ("c", [0]),
        ("the queen", [5]),  # a stop word beside another word is dropped
        ("queens", [5]),
    ],
)
def test_single_characters_are_words_and_stop_words_are_found_alone(
    tmp_path: Path, query: str, rows: list[int]
) -> None:
    texts = ["vitamin C", "vitamin K", "Malcolm X", "It is", "the Who band", "a queen"]
    assert found(texts, query, tmp_path / "l") == rows


def test_stop_words_count_in_no_length(tmp_path: Path) -> None:
    texts = ["queen of the river", "queen river", "stone"]
    score_QK, _ = index_of(texts, tmp_path / "l").search(["queen"], 2)
    assert score_QK[0, 0] == score_QK[0, 1] > 0


@pytest.mark.parametrize(
    ("query", "row"),
    [
        ("東京", 0),
        ("京都", 1),
        ("東京の首都", 0),
        ("서울", 2),
        ("水", 3),
        ("\uff34\uff4f\uff4b\uff59\uff4f", 4),
        ("tokyo", 4),
    ],
)
def test_text_without_spaces_is_read_in_pairs_of_characters(
    tmp_path: Path, query: str, row: int
) -> None:
    texts = ["東京は日本の首都です", "京都の寺", "서울은 수도이다", "水 です", "Tokyo 東北"]
    assert found(texts, query, tmp_path / "l")[0] == row


def test_the_language_decides_on_stems_and_stop_words(tmp_path: Path) -> None:
    texts = ["die Häuser am Fluss", "der Berg", "running"]
    assert found(texts, "Haus", tmp_path / "de", language="german") == [0]
    assert found(texts, "die Berge", tmp_path / "de2", language="german") == [1]
    assert found(texts, "Haus", tmp_path / "en") == []
    assert found(texts, "run", tmp_path / "en2") == [2]
    assert found(texts, "run", tmp_path / "none", language="none") == []
    assert found(texts, "die", tmp_path / "none2", language="none") == [0]


def test_an_index_of_another_rule_is_refused() -> None:
    with pytest.raises(ValidationError):
        LexicalSpec.model_validate({"k1": 0.9, "b": 0.4})
    with pytest.raises(ValidationError):
        LexicalSpec.model_validate({"rule": 1})


def test_the_best_come_first_and_of_equals_the_earlier(tmp_path: Path) -> None:
    texts = ["river stone", *["river"] * 8, "river river queen"]
    score_QK, row_QK = index_of(texts, tmp_path / "l").search(["river"], 4)
    assert row_QK.tolist() == [[9, 1, 2, 3]]
    assert (np.diff(score_QK) <= 0).all()


@pytest.mark.parametrize("query", ["", "of it", "unheardof", "?!"])
def test_a_query_without_known_words_finds_nothing(tmp_path: Path, query: str) -> None:
    score_QK, row_QK = index_of(["queen", "river", "the"], tmp_path / "l").search([query], 2)
    assert row_QK.tolist() == [[NO_ROW, NO_ROW]]
    assert score_QK.tolist() == [[0, 0]]


def test_a_corpus_without_a_single_word_is_an_index_all_the_same(tmp_path: Path) -> None:
    assert index_of(["the", "?"], tmp_path / "l").search(["queen"], 1)[1].tolist() == [[NO_ROW]]


def test_nothing_on_disk_is_a_pickle_and_columns_are_mapped(tmp_path: Path) -> None:
    index = index_of(random_texts(50), tmp_path / "l")
    names = {path.name for path in (tmp_path / "l").iterdir()}
    assert {path.suffix for path in (tmp_path / "l").iterdir()} == {".npy", ".json"}
    for name in names:
        if name.endswith(".npy"):
            np.load(tmp_path / "l" / name, allow_pickle=False)
    maps = Path("/proc/self/maps").read_text()
    assert f"{tmp_path}/l/{lexical.DATA_FILE}" in maps
    assert len(index) == 50


def test_room_is_taken_before_anything_is_written_to_it(tmp_path: Path) -> None:
    lexical._create(tmp_path / "data", np.float32, 250_000)
    assert (tmp_path / "data").stat().st_blocks * 512 >= 1_000_000


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "header", "mixed", "vocabulary"])
def test_a_missing_or_damaged_index_says_to_build_again(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "l"
    build_lexical(spec_of(), random_texts(30), 30, folder)
    data = folder / lexical.DATA_FILE
    match damage:
        case "missing":
            data.unlink()
        case "empty":
            data.write_bytes(b"")
        case "header":
            data.write_bytes(data.read_bytes().replace(b"}", b" ", 1))
        case "cut":
            data.write_bytes(data.read_bytes()[:-50])
        case "mixed":
            np.save(data, np.zeros(3, dtype=np.float32))
        case "vocabulary":
            (folder / lexical.VOCABULARY_FILE).write_text("{")
    with pytest.raises(InputError, match="build the index again"):
        LexicalIndex(folder)

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ur2.datasets import load_questions
from ur2.datasets.rows import last_boxed
from ur2.datasets.sources import parse_source
from ur2.errors import InputError
from ur2.types import Level, Question

HOTPOT = {
    "_id": "5a7",
    "question": "Which band?",
    "answer": "Rush",
    "type": "bridge",
    "level": "hard",
    "supporting_facts": [["Neil Peart", 0]],
    "context": [["Neil Peart", ["A drummer."]]],
}
TWO_WIKI = {
    "_id": "b08",
    "question": "Which film?",
    "answer": "Free Guy",
    "type": "comparison",
    "supporting_facts": [["Free Guy", 0]],
    "answer_id": None,
}
MUSIQUE = {
    "id": "2hop__1_2",
    "question": "Who was first?",
    "answer": "G. Stanley Hall",
    "answer_aliases": ["Stanley Hall", "G. Stanley Hall"],
    "question_decomposition": [{"id": 1, "question": "q"}],
    "answerable": True,
}
MATH_500 = {
    "problem": "2+2?",
    "solution": "so \\boxed{4}",
    "answer": "4",
    "subject": "Algebra",
    "level": 5,
    "unique_id": "test/1.json",
}
MATH_FIRST = {
    "problem": "half?",
    "level": "Level 2",
    "type": "Algebra",
    "solution": "\\boxed{1}, no: $\\boxed{\\frac{1}{2}}$.",
}
MEDQA = {
    "question": "Which drug?",
    "options": {"A": "aspirin", "B": "insulin", "C": "iron", "D": "zinc", "E": "water"},
    "answer": "insulin",
    "answer_idx": "B",
    "meta_info": "step1",
}
MEDQA_4 = {"question": "Which drug?", "options": ["aspirin", "insulin", "iron", "zinc"]}
MMLU_PRO = {
    "question_id": 70,
    "question": "Typical of?",
    "options": [f"option {i}" for i in range(10)],
    "answer": "I",
    "answer_index": 8,
    "category": "business",
}
GSM8K = {"question": "How many?", "answer": "Add <<1+1=2>>2 eggs.\n#### 2"}
FLASHRAG = {"id": "test_0", "question": "Who?", "golden_answers": ["me", "myself"]}


def load_one(folder: Path, row: object, name: str = "set.jsonl", suffix: str = "") -> Question:
    (folder / name).write_text(json.dumps(row), encoding="utf-8")
    (question,) = load_questions(str(folder / name) + suffix)
    return question


@pytest.mark.parametrize(
    ("row", "task", "answers", "level", "key"),
    [
        (HOTPOT, "qa", ("Rush",), "hard", "5a7"),
        (TWO_WIKI, "qa", ("Free Guy",), "medium", "b08"),
        (MUSIQUE, "qa", ("G. Stanley Hall", "Stanley Hall"), "medium", "2hop__1_2"),
        (MATH_500, "math", ("4",), "very_hard", "1"),
        (MATH_FIRST, "math", ("\\frac{1}{2}",), "easy", "1"),
        (MEDQA, "choice", ("B",), "medium", "1"),
        (MEDQA_4 | {"answer": "iron"}, "choice", ("C",), "medium", "1"),
        (MEDQA_4 | {"answer": "D"}, "choice", ("D",), "medium", "1"),
        (
            {"question": "2+2?", "options": ["3", "4"], "answer": "4"},
            "choice",
            ("B",),
            "medium",
            "1",
        ),
        (MMLU_PRO, "choice", ("I",), "medium", "70"),
        (GSM8K, "math", ("2",), "medium", "1"),
        (FLASHRAG, "qa", ("me", "myself"), "medium", "test_0"),
    ],
)
def test_a_public_schema_is_recognised_by_its_fields(
    row: object, task: str, answers: tuple[str, ...], level: str, key: str, tmp_path: Path
) -> None:
    question = load_one(tmp_path, row)
    assert (question.task, question.answers) == (task, answers)
    assert (question.level, question.id) == (Level(level), f"set-{key}")


def test_equal_keys_of_two_sets_in_one_file_do_not_collide(tmp_path: Path) -> None:
    rows = [FLASHRAG | {"data_source": name} for name in ("nq", "hotpotqa")]
    (tmp_path / "union.json").write_text(json.dumps(rows))
    ids = [question.id for question in load_questions(str(tmp_path / "union.json"))]
    assert ids == ["union-nq-test_0", "union-hotpotqa-test_0"]


def test_options_under_letters_come_in_letter_order(tmp_path: Path) -> None:
    row = MEDQA | {"options": dict(reversed(list(MEDQA["options"].items())))}  # type: ignore[attr-defined]
    options = ("aspirin", "insulin", "iron", "zinc", "water")
    assert load_one(tmp_path, row).options == options


def test_what_is_told_before_a_question_belongs_to_it(tmp_path: Path) -> None:
    row = MEDQA | {"context": ["A man of 40.", "He coughs."]}
    assert load_one(tmp_path, row).text == "A man of 40.\nHe coughs.\nWhich drug?"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (MEDQA | {"answer_idx": "C"}, "'insulin' is not option C"),
        (MEDQA | {"answer_idx": "F"}, "one of ABCDE"),
        (MEDQA | {"options": {"A": "x", "C": "y"}}, "without a gap"),
        (MEDQA | {"source": "math"}, "a row of source 'math' has none"),
        (MEDQA_4 | {"answer": "gold"}, "'gold' is not an option's letter"),
        (MMLU_PRO | {"answer_index": 26}, "26 is not the place of I"),
        (MUSIQUE | {"answerable": False}, "answerable: false"),
        (HOTPOT | {"level": "Hard"}, "level: 'Hard' is unknown"),
        ({"problem": "?", "solution": "no box"}, "answer: is missing"),
        ({"problem": "?", "solution": "\\boxed{4"}, "answer: is missing"),
    ],
)
def test_a_row_that_contradicts_itself_is_refused(row: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"set\.jsonl: 1 bad row\(s\)") as caught:
        load_one(tmp_path, row)
    assert said in str(caught.value)


def test_minerva_is_math_by_its_name_and_any_file_by_a_suffix(tmp_path: Path) -> None:
    row = {"question": "How far?", "answer": "1.6"}
    assert load_one(tmp_path, row, "minervamath.jsonl").task == "math"
    assert load_one(tmp_path, row, "other.jsonl").task == "qa"
    assert load_one(tmp_path, row, "other.jsonl", "?task=math").task == "math"
    with pytest.raises(InputError, match=r"'\?task=maths' is not understood; known: \?task=choice"):
        load_one(tmp_path, row, "other.jsonl", "?task=maths")


def test_a_json_file_is_an_array_or_lines_by_its_first_character(tmp_path: Path) -> None:
    rows = [HOTPOT, HOTPOT | {"_id": "6b8"}]
    array, lines = tmp_path / "array.json", tmp_path / "lines.json"
    array.write_text("\ufeff\n " + json.dumps(rows, indent=1), encoding="utf-8")
    lines.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert [q.id for q in load_questions(str(array))] == ["array-5a7", "array-6b8"]
    assert [q.id for q in load_questions(str(lines))] == ["lines-5a7", "lines-6b8"]


def test_an_item_of_an_array_is_named_by_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([HOTPOT, {"question": "?"}]))
    with pytest.raises(InputError, match="item 2: answer: is missing"):
        load_questions(str(tmp_path / "a.json"))


def write_parquet(path: Path, rows: list[dict[str, object]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd")
    return str(path)


def test_parquet_rows_are_those_of_json_lines(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        MMLU_PRO,
        MMLU_PRO | {"question_id": 71, "category": None},
        MMLU_PRO | {"question_id": 72, "src": b"\xff\x00"},
    ]
    path = write_parquet(tmp_path / "set.parquet", rows)
    questions = load_questions(path)
    assert [q.id for q in questions] == ["set-70", "set-71", "set-72"]
    assert [q.subject for q in questions] == ["business", "", "business"]
    assert questions[0].options == tuple(MMLU_PRO["options"])  # type: ignore[arg-type]
    write_parquet(tmp_path / "bad.parquet", [{"question": "?", "answer": "x", "level": 9}])
    with pytest.raises(InputError, match="row 1: level: 9 is unknown"):
        load_questions(str(tmp_path / "bad.parquet"))


def test_a_parquet_file_whose_text_is_no_utf8_is_an_error(tmp_path: Path) -> None:
    text = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff"))
    pq.write_table(pa.table({"question": text, "answer": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"not a parquet file .*utf-8"):
        load_questions(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    ("name", "path", "config", "split", "stem"),
    [
        ("hf:a/b", "a/b", None, "train", "b-train"),
        ("hf:a/b#/test", "a/b", None, "test", "b-test"),
        ("hf:a/b#test", "a/b", None, "test", "b-test"),
        ("hf:a/b#main/dev?task=math", "a/b", "main", "dev", "b-main-dev"),
    ],
)
def test_a_hub_name_tells_set_config_and_split(
    name: str, path: str, config: str | None, split: str, stem: str
) -> None:
    source = parse_source(name)
    assert (source.path, source.config, source.split) == (path, config, split)
    assert (source.on_hub, source.stem) == (True, stem)
    assert source.task == ("math" if "?" in name else None)


@pytest.mark.parametrize("name", ["hf:", "hf:/", "hf:#main/test"])
def test_a_hub_name_without_a_set_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="names no data set"):
        load_questions(name)


def test_a_set_loads_through_the_datasets_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write_parquet(tmp_path / "mmlu" / "test.parquet", [MMLU_PRO])
    name = f"hf:{tmp_path / 'mmlu'}#/test"
    (question,) = load_questions(name)
    assert (question.id, question.source) == ("mmlu-test-70", name)


def test_a_hub_name_without_a_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="without a network, download the file"):
        load_questions("hf:nobody/nothing#main/test")


@pytest.mark.parametrize(
    ("text", "gold"),
    [("\\boxed{a{b}c} d", "a{b}c"), ("\\boxed{1} \\boxed{2}", "2"), ("none", ""), ("", "")],
)
def test_the_last_box_is_read_with_its_braces_balanced(text: str, gold: str) -> None:
    assert last_boxed(text) == gold


def shared_data() -> Path:
    beside = Path(__file__).parents[4] / "shared" / "data"
    return Path(os.environ.get("UR2_SHARED_DATA", beside))


@pytest.mark.skipif(not shared_data().is_dir(), reason="needs UR2_SHARED_DATA")
@pytest.mark.parametrize(
    ("file", "num", "bucket"),
    [
        ("hotpotqa/hotpot_dev_distractor_200.json", 200, "qa/hard"),
        ("hotpotqa/hotpot_train_distractor_100.json", 69, "qa/medium"),
        ("2wiki/2wiki_dev_200.json", 200, "qa/medium"),
        ("2wiki/2wiki_train_500.json", 500, "qa/medium"),
        ("musique/musique_train_100.json", 100, "qa/medium"),
        ("medical_mcq/medqa_train_5opt.jsonl", 1000, "choice/medium"),
        ("medical_mcq/medmcqa_train.jsonl", 1000, "choice/medium"),
        ("medical_mcq/medqa_us_dev_mediq.jsonl", 1272, "choice/medium"),
        ("math/gsm8k_test.jsonl", 1319, "math/medium"),
        ("math/math_test_5000.jsonl", 1324, "math/very_hard"),
        ("ur2_reference/minervamath/minervamath.jsonl", 272, "math/medium"),
        ("ur2_reference/mmlupro_med/mmlupro_med.jsonl", 500, "choice/medium"),
    ],
)
def test_real_files_load_with_their_counts(file: str, num: int, bucket: str) -> None:
    questions = load_questions(str(shared_data() / file))
    assert sum(question.bucket == bucket for question in questions) == num

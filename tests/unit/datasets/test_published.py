"""Rows as other projects publish them: small ones by hand, and the real files where they are."""

import contextlib
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from ur2.datasets import load_questions
from ur2.datasets.published import TASK_FIELDS
from ur2.errors import InputError
from ur2.types import Question

SHARED = Path(os.environ.get("UR2_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))


def load(folder: Path, *rows: dict[str, Any], query: str = "") -> list[Question]:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_questions(f"{file}{query}")


def one(folder: Path, row: dict[str, Any], query: str = "") -> Question:
    (question,) = load(folder, row, query=query)
    return question


CITIES = ["Bern", "Rome", "Oslo", "Paris"]
LABELLED = {"text": CITIES, "label": ["A", "B", "C", "D"]}
NUMBERED = {"text": CITIES, "label": ["1", "2", "3", "4"]}
LETTERED = dict(zip("ABCD", CITIES, strict=True))
PAIRS = [{"label": letter, "text": text} for letter, text in zip("ABCD", CITIES, strict=True)]


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Q?", "choices": CITIES, "golden_answers": [2]},
        {"question": "Q?", "choices": CITIES, "golden_answers": ["2"]},
        {"question": "Q?", "choices": CITIES, "golden_answers": ["C"]},
        {"question": "Q?", "choices": CITIES, "golden_answers": ["Oslo"]},
        {"question": "Q?", "choices": CITIES, "answer": 2, "subject": "cities"},
        {"question": "Q?", "choices": LABELLED, "answerKey": "C", "id": "x"},
        {"question": "Q?", "choices": NUMBERED, "answerKey": "3"},
        {"question": "Q?", "choices": PAIRS, "answerKey": "C"},
        {"question_stem": "Q?", "choices": LABELLED, "answerKey": "C"},
        {"question": "Q?", "choices": [*CITIES, None, None], "answer": "C"},
        {"question": "Q?", "options": CITIES, "answer": 2},
        {"question": "Q?", "options": CITIES, "answer": "C", "answer_index": 2},
        {"question": "Q?", "options": {**LETTERED, "E": None}, "answer": "C"},
    ],
)  # fmt: skip
def test_choices_load_as_choices_however_they_and_their_gold_are_written(tmp_path, row):
    question = one(tmp_path, row)
    assert (question.task, question.text) == ("choice", "Q?")
    assert (question.options, question.answers) == (tuple(CITIES), ("C",))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"choices": CITIES, "golden_answers": ["Madrid"]}, "'Madrid' is none of the choices"),
        ({"choices": CITIES, "golden_answers": [4]}, "4 is no index of 4 choices"),
        ({"choices": CITIES, "golden_answers": [0, 1]}, "2 options"),
        ({"choices": CITIES}, "no option"),
        ({"choices": ["1", "2", "3"], "golden_answers": ["1"]}, "may be several"),
        ({"choices": ["Bern", None, "Rome"], "answer": 0}, "each must be a text"),
        ({"options": ["Bern", None, "Rome"], "answer": "A"}, "options"),
        ({"choices": CITIES, "answer": "A", "answerKey": "B"}, "2 options"),
    ],
)
def test_choices_whose_gold_is_not_clear_are_refused(tmp_path, row, message):
    with pytest.raises(InputError, match=f"line 1.*{message}"):
        one(tmp_path, {"question": "Q?", **row})


@pytest.mark.parametrize("field", sorted(TASK_FIELDS))
def test_no_field_that_decides_the_task_is_dropped_in_silence(tmp_path, field):
    value = {"is_impossible": True, "image": "x.png", "context": "A text."}.get(field, ["x", "y"])
    row = {"question": "Q?", "answer": "x", field: value}
    with contextlib.suppress(InputError):  # refused; or read, and then not dropped
        question = one(tmp_path, row)
        assert set(question.answers) == {"x", "y"} or question.options == ("x", "y")


@pytest.mark.parametrize("empty", [None, "", [], {}, False])
def test_a_field_that_holds_nothing_decides_nothing(tmp_path, empty):
    assert one(tmp_path, {"question": "Q?", "answer": "x", "context": empty}).answers == ("x",)


@pytest.mark.parametrize(
    ("gold", "golds"),
    [
        (204, ("204",)),
        (27.0, ("27",)),
        (0.5, ("0.5",)),
        (-3, ("-3",)),
        (True, ("yes",)),
        (False, ("no",)),
        ([1, "one", 1.0], ("1", "one")),
        ({"value": "Paris", "aliases": ["Paris", "City of Light"]}, ("Paris", "City of Light")),
    ],
)
def test_golds_that_are_no_texts_are_what_one_says(tmp_path, gold, golds):
    assert one(tmp_path, {"question": "Q?", "answer": gold}).answers == golds
    assert one(tmp_path, {"question": "Q?", "golden_answers": gold}).answers == golds


VERL = {
    "data_source": "searchR1_nq",
    "prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": "Who wrote it?"}],
    "ability": "fact-reasoning",
    "reward_model": {"ground_truth": {"target": ["Orwell", "Blair"]}, "style": "rule"},
    "extra_info": {"index": 7, "split": "train"},
}


def test_rows_of_verl_load(tmp_path):
    question = one(tmp_path, VERL)
    assert (question.task, question.text) == ("qa", "Who wrote it?")
    assert question.answers == ("Orwell", "Blair")
    assert question.id.endswith("searchR1_nq-7")
    beside = {**VERL, "extra_info": {"index": 1, "question": "Who?"}}
    assert one(tmp_path, beside).text == "Who?"
    assert one(tmp_path, {**VERL, "question": "Who, then?"}).text == "Who, then?"
    sums = {
        "data_source": "openai/gsm8k", "prompt": "1+1?", "ability": "math",
        "reward_model": {"ground_truth": 2},
    }  # fmt: skip
    question = one(tmp_path, sums)
    assert (question.task, question.answers) == ("math", ("2",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward_model": {"style": "rule"}}, "ground_truth"),
        ({"ability": "code"}, "ability: 'code'"),
        ({"prompt": [{"role": "system", "content": "S"}]}, "no message of the user"),
    ],
)
def test_rows_of_verl_that_lack_a_part_are_refused(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        one(tmp_path, {**VERL, **change})


def test_a_table_of_verl_and_one_with_options_for_some_rows_load(tmp_path):
    parquet.write_table(pyarrow.Table.from_pylist([VERL, VERL | {"extra_info": {"index": 8}}]),
                        tmp_path / "verl.parquet")  # fmt: skip
    assert [q.answers[0] for q in load_questions(str(tmp_path / "verl.parquet"))] == ["Orwell"] * 2
    mixed = [
        {"question": "Open?", "answer": "x", "options": None},
        {"question": "Closed?", "answer": "B", "options": {"A": "a", "B": "b", "C": None}},
        {"question": "Wide?", "answer": "C", "options": {"A": "a", "B": "b", "C": "c"}},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(mixed), tmp_path / "mixed.parquet")
    questions = load_questions(str(tmp_path / "mixed.parquet"))
    assert [(q.task, len(q.options)) for q in questions] == [
        ("qa", 0),
        ("choice", 2),
        ("choice", 3),
    ]


MEDMCQA = {
    "question": "Q?", "opa": "a", "opb": "b", "opc": "c", "opd": "d", "cop": 2, "exp": None,
    "subject_name": "Anatomy", "topic_name": None, "choice_type": "single",
}  # fmt: skip


def test_medmcqa_counts_from_1_in_json_and_from_0_in_tables(tmp_path):
    question = one(tmp_path, MEDMCQA)
    assert (question.answers, question.subject, question.task) == (("B",), "Anatomy", "choice")
    parquet.write_table(pyarrow.Table.from_pylist([MEDMCQA]), tmp_path / "m.parquet")
    assert load_questions(str(tmp_path / "m.parquet"))[0].answers == ("C",)
    for wrong in (0, 5, -1, None):
        with pytest.raises(InputError, match="cop"):
            one(tmp_path, {**MEDMCQA, "cop": wrong})


def test_triviaqa_popqa_strategyqa_frames_and_lists_of_answers_load(tmp_path):
    rows = [
        {"Question": "Who?", "QuestionId": "tc_1", "Answer": {"Value": "A", "Aliases": ["A", "B"]}},
        {"question": "Who?", "question_id": "tc_2", "answer": {"value": "A", "aliases": ["B"]}},
        {"id": 4, "question": "Who?", "possible_answers": '["A", "B"]', "obj": "A"},
        {"Prompt": "Who?", "Answer": "A", "id": "f"},
        {"id": "d", "question": "Who?", "answers": ["A", "B"], "source": "tq"},
        {"id": "e", "question": "Who?", "answer": "A", "answers": ["A", "B"]},
    ]
    questions = load(tmp_path, *rows)
    assert {q.text for q in questions} == {"Who?"}
    assert [q.answers for q in questions] == [
        ("A", "B"), ("A", "B"), ("A", "B"), ("A",), ("A", "B"), ("A", "B"),
    ]  # fmt: skip
    strategy = {"qid": "s1", "question": "Is it?", "answer": False, "facts": ["x"], "term": "t"}
    assert one(tmp_path, strategy).answers == ("no",)


REAL = {
    "medical_mcq/medmcqa_dev.jsonl": ("choice", 4183),
    "medical_mcq/medmcqa_train.jsonl": ("choice", None),
    "medical_mcq/medqa_train_5opt.jsonl": ("choice", None),
    "medical_mcq/medqa_us_dev_mediq.jsonl": ("choice", None),
    "open_qa/deepresearcher_dev.jsonl": ("qa", None),
    "open_qa/nq_open_dev_3610.jsonl": ("qa", 3610),
    "open_qa/popqa_1000_with_paragraphs.json.gz": ("qa", 1000),
    "strategyqa/strategyqa_dev.json": ("qa", None),
    "strategyqa/strategyqa_train.json.gz": ("qa", None),
    "frames/frames_824.json": ("qa", 824),
    "2wiki/2wiki_dev_200.json": ("qa", 200),
    "2wiki/2wiki_train_500.json": ("qa", 500),
    "musique/musique_train_100.json": ("qa", 100),
    "hotpotqa/hotpot_train_distractor_100.json": ("qa", 100),
    "math/gsm8k_test.jsonl": ("math", 1319),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files_load_whole(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs {name} of the shared data: set UR2_SHARED_DATA")
    task, count = REAL[name]
    questions = load_questions(str(path))
    assert {question.task for question in questions} == {task}
    assert count is None or len(questions) == count
    assert all(question.answers for question in questions)


def test_real_golds_are_those_of_the_file():
    path = SHARED / "open_qa" / "popqa_1000_with_paragraphs.json.gz"
    if not path.exists():
        pytest.skip("needs open_qa of the shared data: set UR2_SHARED_DATA")
    with gzip.open(path, "rt") as file:
        rows = json.load(file)
    for row, question in zip(rows, load_questions(str(path)), strict=True):
        assert row["obj"] in question.answers
    medmcqa = SHARED / "medical_mcq" / "medmcqa_dev.jsonl"
    rows = [json.loads(line) for line in medmcqa.read_text().splitlines()]
    for row, question in zip(rows, load_questions(str(medmcqa)), strict=True):
        assert question.answers == ("ABCD"[row["cop"] - 1],)

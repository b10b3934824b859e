import gzip
import json
import os
from pathlib import Path

import pytest
import zstandard
from pydantic_core import to_json

from ur2.datasets import load_demonstrations, load_questions
from ur2.datasets.jsonl import MAX_PROBLEMS_SHOWN, write_jsonl
from ur2.demonstrations import (
    DemonstratedTurn,
    Demonstration,
    RecordedContext,
    RecordedPart,
)
from ur2.errors import InputError
from ur2.types import Level, Passage, Question

QUESTION = Question(
    id="q1",
    task="qa",
    text="Who wrote Faust?",
    answers=("Goethe", "J. W. Goethe"),
    level=Level.HARD,
    source="books",
    meta={"hops": "1"},
)


def write(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_questions_survive_writing_and_reading(tmp_path: Path, name: str) -> None:
    other = Question(
        id="q2", task="choice", text="?", answers=("B",), level=Level.EASY, options=("x", "y")
    )
    path = str(tmp_path / name)
    assert write_jsonl(path, [QUESTION, other]) == 2
    first, second = load_questions(path)
    assert first == QUESTION
    assert second.source == path
    assert (second.options, second.answers) == (("x", "y"), ("B",))


def test_the_suffix_decides_the_compression(tmp_path: Path) -> None:
    write_jsonl(str(tmp_path / "a.jsonl.gz"), [QUESTION])
    write_jsonl(str(tmp_path / "a.jsonl.zst"), [QUESTION])
    from_gzip = gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes())
    with zstandard.open(tmp_path / "a.jsonl.zst") as stream:
        assert stream.read() == from_gzip


def test_demonstrations_survive_writing_and_reading(tmp_path: Path) -> None:
    turns = (
        DemonstratedTurn(thought="t", search="q", documents=(Passage(id="p", text="d"),)),
        DemonstratedTurn(thought="u", answer="a", learn=False),
    )
    demonstration = Demonstration(question=QUESTION, retrieval=True, turns=turns)
    path = str(tmp_path / "d.jsonl")
    write_jsonl(path, [demonstration, demonstration])
    assert load_demonstrations(path) == [demonstration, demonstration]


def test_contexts_of_a_teacher_survive_writing_and_reading(tmp_path: Path) -> None:
    parts = (RecordedPart(author="policy", text="t"), RecordedPart(author="environment", text="d"))
    context = RecordedContext(id="q#0", message="m", parts=parts)
    write_jsonl(path := str(tmp_path / "d.jsonl"), [context])
    assert load_demonstrations(path) == [context]


def test_ur2_rows_map_source_to_task_and_keep_their_level(tmp_path: Path) -> None:
    path = write(
        tmp_path / "train.jsonl",
        {"idx": 0, "question": "1+1?", "answer": "2", "source": "math", "level": "very_hard"},
        {"idx": 1, "question": "Who?", "answer": "me", "source": "rag", "level": "easy"},
        {"idx": 2, "question": "?", "answer": "B", "source": "law", "options": ["x", "y"]},
    )
    questions = load_questions(path)
    assert [q.bucket for q in questions] == ["math/very_hard", "qa/easy", "choice/medium"]
    assert [q.id for q in questions] == ["train-0", "train-1", "train-2"]


def test_evaluation_rows_are_recognised_by_their_fields(tmp_path: Path) -> None:
    medqa = {"question": "?", "answer": "y", "options": ["x", "y"], "answer_idx": "B"}
    mmlu = {
        "question_id": 7,
        "question": "?",
        "options": ["x", "y"],
        "answer": "A",
        "category": "law",
    }
    math500 = {"id": 3, "question": "?", "answer": "4", "solution": "so 4", "level": 5}
    plain = {"question": "?", "answer": "4"}
    path = write(tmp_path / "e.jsonl", medqa, mmlu, math500, plain)
    questions = load_questions(path)
    assert [q.task for q in questions] == ["choice", "choice", "math", "qa"]
    assert [q.answers for q in questions] == [("B",), ("A",), ("4",), ("4",)]
    assert questions[1].subject == "law"
    assert questions[2].level is Level.VERY_HARD
    assert load_questions(path, task="math")[3].task == "math"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "?", "answer": "x", "source": "poetry"}, "source: 'poetry' is unknown"),
        ({"question": "?", "answer": "x", "level": 9}, "level: 9 is unknown"),
        ({"question": "?", "answer": "C", "source": "law", "options": ["x", "y"]}, "one of AB"),
        ({"question": "?", "answer": "A", "source": "law"}, "the row has no options"),
        ({"question": "", "answer": "x"}, "question: is blank; fill it in"),
        ({"question": "?"}, "answer"),
        ({"id": "a", "task": "qa", "text": "?", "answers": [], "level": "easy"}, "answers"),
        ({"id": "a", "task": "qa", "text": "?", "answers": ["x"], "level": "easy", "z": 1}, "z"),
        (["a list"], "a JSON object is needed"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_field(tmp_path: Path, row: object, said: str) -> None:
    path = write(tmp_path / "bad.jsonl", {"question": "?", "answer": "x"}, row)
    with pytest.raises(InputError) as caught:
        load_questions(path)
    assert path in str(caught.value)
    assert "line 2" in str(caught.value)
    assert said in str(caught.value)


def test_all_problems_of_a_file_come_at_once_and_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("{broken\n" * 30, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_questions(str(path))
    message = str(caught.value)
    assert message.count("\n  line ") == MAX_PROBLEMS_SHOWN
    assert "30 bad row(s)" in message
    assert "and 10 more" in message


def test_bytes_that_are_not_utf8_are_a_problem_of_their_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.jsonl"
    path.write_bytes('{"question": "caf\u00e9?", "answer": "x"}\n'.encode("latin-1"))
    with pytest.raises(InputError, match="line 1"):
        load_questions(str(path))


def test_two_rows_with_one_id_are_an_error(tmp_path: Path) -> None:
    row = {"idx": 1, "question": "?", "answer": "x"}
    with pytest.raises(InputError, match="id: 'd-1' is already used on line 1"):
        load_questions(write(tmp_path / "d.jsonl", row, row))


def test_missing_empty_and_damaged_files_say_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_questions(str(tmp_path / "none.jsonl"))
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(InputError, match="holds no rows"):
        load_questions(str(tmp_path / "empty.jsonl"))
    for name in ("damaged.jsonl.gz", "damaged.jsonl.zst"):
        (tmp_path / name).write_bytes(b"no compression at all")
        with pytest.raises(InputError, match="cannot be read"):
            load_questions(str(tmp_path / name))


def test_a_cut_zstd_file_is_an_error_though_all_its_lines_are_whole(tmp_path: Path) -> None:
    compressor = zstandard.ZstdCompressor().compressobj()
    line = to_json(QUESTION) + b"\n"
    begin = compressor.compress(line) + compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    (tmp_path / "cut.jsonl.zst").write_bytes(begin)
    with pytest.raises(InputError, match="cannot be read"):
        load_questions(str(tmp_path / "cut.jsonl.zst"))


def test_writing_leaves_nothing_half_written(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_jsonl(str(path), [QUESTION])
    before = path.read_bytes()

    def rows():  # type: ignore[no-untyped-def]
        yield QUESTION
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_jsonl(str(path), rows())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def shared_data() -> Path:
    beside = Path(__file__).parents[4] / "shared" / "data"
    return Path(os.environ.get("UR2_SHARED_DATA", beside)) / "ur2_reference"


@pytest.mark.skipif(not shared_data().is_dir(), reason="needs UR2_SHARED_DATA with ur2_reference")
def test_every_file_of_the_reference_loads_with_its_published_counts() -> None:
    counts = {}
    for path in shared_data().rglob("*.jsonl"):
        for question in load_questions(str(path)):
            counts[path.name, question.bucket] = counts.get((path.name, question.bucket), 0) + 1
    assert counts["train_rag_math_stage1.jsonl", "math/very_hard"] == 1457
    stage2 = {bucket: n for (name, bucket), n in counts.items() if name == STAGE_2}
    assert stage2 == {
        "qa/hard": 2100,
        "qa/medium": 600,
        "qa/easy": 300,
        "math/easy": 1015,
        "math/medium": 1039,
        "math/hard": 946,
    }
    assert counts["mmlupro.jsonl", "choice/medium"] == 1880
    assert counts["medqa_500_5options.jsonl", "choice/medium"] == 500
    assert counts["bamboogle.jsonl", "qa/medium"] == 125
    assert sum(n for (name, _), n in counts.items() if name == "math500.jsonl") == 500


STAGE_2 = "train_rag_math_stage2.jsonl"

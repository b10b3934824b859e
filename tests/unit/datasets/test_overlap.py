import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ur2.datasets import load_questions
from ur2.datasets.jsonl import write_jsonl
from ur2.datasets.matching import find_overlap, normal_form
from ur2.datasets.overlap import main
from ur2.errors import InputError
from ur2.types import Level, Question


def question(id_: str, text: str, answer: str = "x", options: tuple[str, ...] = ()) -> Question:
    return Question(
        id=id_,
        task="choice" if options else "qa",
        text=text,
        answers=(answer,),
        level=Level.EASY,
        options=options,
    )


LONG = "In which year did the author of the novel about the green lighthouse move to the coast"


def test_spacing_case_and_punctuation_do_not_hide_an_exact_match() -> None:
    train = [question("t", "Find  $x$,\n  if \\[X+1=2\\]!"), question("u", "Find z if Z + 1 = 2")]
    overlap = find_overlap(train, [question("h", "find x if x + 1 = 2.")])
    assert [(m.train.id, m.held_out.id, m.exact) for m in overlap.matches] == [("t", "h", True)]
    assert overlap.clean(train) == [train[1]]


def test_one_stem_with_other_options_is_another_question() -> None:
    held_out = [question("h", "Which is true?", "A", ("one", "two"))]
    other = question("t", "Which is true?", "A", ("three", "four"))
    shuffled = question("u", "Which is true?", "B", ("two", "one"))
    assert find_overlap([other, shuffled], held_out).train_ids == {"u"}


def test_a_near_match_needs_a_shared_gold() -> None:
    held_out = [question("h", LONG, "1901")]
    same = question("t", LONG + " again", " 1901")
    template = question("u", LONG + " once", "1877")
    overlap = find_overlap([same, template], held_out)
    assert overlap.train_ids == {"t"}
    assert (overlap.num_exact, overlap.num_near) == (0, 1)
    assert 0.8 <= overlap.matches[0].similarity < 1


def test_the_golds_of_choices_are_compared_by_their_text() -> None:
    held_out = [question("h", LONG, "A", ("alpha", "beta"))]
    moved = question("t", "Now: " + LONG, "B", ("beta", "alpha"))
    wrong = question("u", "Now: " + LONG, "A", ("beta", "alpha"))
    assert find_overlap([moved, wrong], held_out).train_ids == {"t"}


def test_repeated_training_questions_are_counted_once_among_the_distinct() -> None:
    train = [question("t", LONG), question("u", LONG + "?"), question("v", "Something else")]
    overlap = find_overlap(train, [question("h", LONG)])
    assert (overlap.num_exact, overlap.num_distinct_exact) == (2, 1)
    assert (overlap.num_train, overlap.num_distinct_train) == (3, 2)


WORDS = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=14).map(" ".join)


def jaccard(one: str, other: str) -> float:
    def grams(text: str) -> set[tuple[str, ...]]:
        words = text.split()
        return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))}

    first, second = grams(one), grams(other)
    return len(first & second) / len(first | second)


@settings(max_examples=150, deadline=None)
@given(
    train=st.lists(WORDS, max_size=12),
    held_out=st.lists(WORDS, max_size=12),
    threshold=st.sampled_from([0.3, 0.5, 0.8, 1.0]),
)
def test_the_join_finds_what_comparing_all_pairs_finds(
    train: list[str], held_out: list[str], threshold: float
) -> None:
    left = [question(f"t{i}", text) for i, text in enumerate(train)]
    right = [question(f"h{i}", text) for i, text in enumerate(held_out)]
    expected = {
        one.id for one in left if any(jaccard(one.text, two.text) >= threshold for two in right)
    }
    overlap = find_overlap(left, right, threshold=threshold)
    assert overlap.train_ids == expected
    for match in overlap.matches:
        best = max(jaccard(match.train.text, two.text) for two in right)
        assert match.similarity == pytest.approx(best)
    cleaned = overlap.clean(left)
    assert not find_overlap(cleaned, right, threshold=threshold).matches
    assert len(cleaned) + len(overlap.matches) == len(left)


def test_no_match_is_missed_for_the_rounding_of_a_threshold() -> None:
    words = [f"w{n:02}" for n in reversed(range(27))]
    whole, begin = question("a", " ".join(words)), question("b", " ".join(words[:16]))
    assert jaccard(whole.text, begin.text) == 0.56
    assert len(find_overlap([whole], [begin], threshold=0.56).matches) == 1


def test_the_command_shows_each_file_and_writes_what_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, first, second, out = (str(tmp_path / f"{name}.jsonl") for name in "tabo")
    kept = question("kept", "A question of its own")
    write_jsonl(train, [question("t1", LONG, "[asy]"), question("t2", "Second one"), kept])
    write_jsonl(first, [question("a", LONG), question("a2", "second one")])
    write_jsonl(second, [question("b", LONG + "!")])
    main([train, first, second, f"out={out}"])
    assert load_questions(out) == [replace(kept, source=train)]
    rows = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if "│" in line]
    figures = {row[0].strip(): [int(cell) for cell in row[1:]] for row in rows}
    assert figures == {"a.jsonl": [2, 2, 0, 1], "b.jsonl": [1, 1, 0, 2], "all": [2, 2, 0, 1]}


def test_a_training_file_that_is_held_out_whole_leaves_nothing_to_write(tmp_path: Path) -> None:
    path, out = str(tmp_path / "a.jsonl"), tmp_path / "o.jsonl"
    write_jsonl(path, [question("a", LONG)])
    with pytest.raises(InputError, match="nothing is left"):
        main([path, path, f"out={out}"])
    assert not out.exists()


def shared_data() -> Path:
    beside = Path(__file__).parents[4] / "shared" / "data"
    return Path(os.environ.get("UR2_SHARED_DATA", beside))


@pytest.mark.skipif(not (shared_data() / "math").is_dir(), reason="needs UR2_SHARED_DATA with math")
def test_the_known_leak_of_math_test_problems_into_the_training_files_is_found() -> None:
    folder = shared_data() / "ur2_reference" / "train"
    train: dict[str, Question] = {}
    for path in sorted(folder.glob("train_rag_math_*.jsonl")):
        for one in load_questions(str(path)):
            if one.task == "math":
                train.setdefault(normal_form(one), one)
    held_out = load_questions(str(shared_data() / "math" / "math_test_5000.jsonl"))
    overlap = find_overlap(list(train.values()), held_out)
    assert overlap.num_distinct_train == 6165
    assert overlap.num_distinct_exact == 2289
    assert overlap.num_near < 10

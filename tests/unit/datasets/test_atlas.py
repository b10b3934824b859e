import json
from collections import Counter
from pathlib import Path

import pytest

from ur2.datasets import load_demonstrations, load_questions
from ur2.datasets.atlas import write_atlas
from ur2.datasets.atlas_demonstrations import UNKNOWN_ANSWER
from ur2.datasets.atlas_world import World, fold, make_world
from ur2.datasets.options import AtlasOptions
from ur2.demonstrations import Demonstration
from ur2.errors import InputError
from ur2.types import Level, Question

SMALL = {"num_cities": 1500, "num_train": 300, "num_skills": 600, "num_habits": 600}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "atlas"
    write_atlas(AtlasOptions(out=str(out), num_tokenizer_texts=200, **SMALL))
    return out


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(num_cities=1500, held_out_share=0.2, seed=0)


def read_passages(folder: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in (folder / "passages.jsonl").read_text().splitlines()]
    assert all(set(row) == {"id", "title", "text"} for row in rows)
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row["text"] for row in rows}


def names_of(world: World) -> set[str]:
    return {c.name for c in world.cities} | {c.name for c in world.countries}


def asks_about(question: Question, names: set[str]) -> bool:
    text = question.text.rstrip("?.")
    return any(text.endswith(f" {name}") for name in names) or any(
        f" {name} " in f" {text} " for name in names
    )


def test_there_is_a_passage_per_fact_of_a_country_and_per_city(folder: Path, world: World) -> None:
    passages = read_passages(folder)
    assert len(passages) == 4 * len(world.countries) + len(world.cities)
    assert passages["FR-capital"] == "The capital of France is Paris."
    assert passages["FR-continent"] == "The continent of France is Europe."
    assert "Paris is a city in France. Population " in passages["city-2988507"]


def test_every_level_has_its_questions_and_the_ids_are_unique(folder: Path) -> None:
    test = load_questions(str(folder / "test.jsonl"))
    train = load_questions(str(folder / "train.jsonl"))
    assert Counter(q.level for q in test)[Level.EASY] >= 300
    assert set(Counter(q.bucket for q in train).values()) == {100}
    assert len({q.text for q in test}) == len(test)


def test_train_asks_of_no_held_out_entity_and_the_test_of_no_other(
    folder: Path, world: World
) -> None:
    held_out, open_ = world.part(held_out=True), world.part(held_out=False)
    assert not names_of(held_out) & names_of(open_)
    codes = {c.code for c in held_out.countries} | {c.id for c in held_out.cities}
    for question in load_questions(str(folder / "test.jsonl")):
        assert question.id.rpartition("-")[2] in codes
    for question in load_questions(str(folder / "train.jsonl")):
        assert question.id.rpartition("-")[2] not in codes


def test_demonstrations_say_only_the_continent_of_a_held_out_country(
    folder: Path, world: World
) -> None:
    held_out = world.part(held_out=True)
    facts = {
        passage
        for passage, text in read_passages(folder).items()
        if passage.partition("-")[0] in {c.code for c in held_out.countries}
        or passage.removeprefix("city-") in {c.id for c in held_out.cities}
    }
    continents = {fact for fact in facts if fact.endswith("-continent")}
    cities = {c.name for c in held_out.cities}
    for name in ("skills", "habits"):
        for demo in load_demonstrations(str(folder / f"demonstrations_{name}.jsonl")):
            shown = {p.id for turn in demo.turns for p in turn.documents}
            assert not shown & (facts - continents)
            assert not any(demo.question.text.endswith(f"city {city}?") for city in cities)


def test_the_tokenizer_sees_no_held_out_name_as_a_question_does(folder: Path, world: World) -> None:
    lines = (folder / "tokenizer.jsonl").read_text().splitlines()
    texts = " ".join(json.loads(line)["text"] for line in lines)
    for country in world.part(held_out=True).countries:
        assert f"The capital of {country.name} is" not in texts


def test_clean_demonstrations_are_right_and_solve_by_reading(folder: Path) -> None:
    demos = load_demonstrations(str(folder / "demonstrations_skills.jsonl"))
    for demo in demos:
        (gold,) = demo.question.answers
        last = demo.turns[-1]
        if demo.question.level is Level.EASY:
            assert (len(demo.turns), last.answer) == (1, gold)
        elif not demo.retrieval:
            assert (len(demo.turns), last.answer) == (1, UNKNOWN_ANSWER)
        else:
            assert last.answer == gold
            assert gold in demo.turns[-2].documents[0].text
    assert {d.retrieval for d in demos if d.question.level is Level.EASY} == {True, False}


def test_hard_questions_need_the_first_passage_to_ask_for_the_second(folder: Path) -> None:
    demos = load_demonstrations(str(folder / "demonstrations_skills.jsonl"))
    chains = [d for d in demos if d.question.level is Level.HARD and d.retrieval]
    assert chains
    for demo in chains:
        first, second, _ = demo.turns
        assert second.search is not None
        country = second.search.partition(" of ")[2]
        assert country in first.documents[0].text
        assert country not in demo.question.text


def test_most_clean_demonstrations_are_about_entities_made_up_anew(folder: Path) -> None:
    demos = load_demonstrations(str(folder / "demonstrations_skills.jsonl"))
    asked = [d for d in demos if d.question.level is not Level.EASY]
    fictional = [d for d in asked if d.question.id.endswith("fictional")]
    assert 0.68 < len(fictional) / len(asked) < 0.82
    assert len({d.question.text for d in fictional}) > 0.95 * len(fictional)


def searches(demo: Demonstration) -> int:
    return sum(turn.search is not None for turn in demo.turns)


def test_habits_search_needlessly_give_up_and_stop_early(folder: Path) -> None:
    demos = load_demonstrations(str(folder / "demonstrations_habits.jsonl"))
    with_search = [d for d in demos if d.retrieval]

    def mean(level: Level) -> float:
        counts = [searches(d) for d in with_search if d.question.level is level]
        return sum(counts) / len(counts)

    assert 0.3 < mean(Level.EASY) < 0.8
    assert 0.5 < mean(Level.MEDIUM) < 1.0
    assert 0.8 < mean(Level.HARD) < 1.5
    right = [d.turns[-1].answer in d.question.answers for d in demos]
    assert 0.3 < sum(right) / len(right) < 0.7
    assert all(searches(d) == 0 for d in demos if not d.retrieval)


def test_the_same_options_are_not_written_twice_and_others_replace_them(tmp_path: Path) -> None:
    out = tmp_path / "atlas"
    options = AtlasOptions(out=str(out), num_tokenizer_texts=10, **SMALL)
    rows = write_atlas(options)
    first = (out / "train.jsonl").read_bytes()
    written_ns = (out / "train.jsonl").stat().st_mtime_ns
    assert write_atlas(options) == rows
    assert (out / "train.jsonl").stat().st_mtime_ns == written_ns
    (out / "index").mkdir()
    write_atlas(options.model_copy(update={"seed": 1}))
    assert (out / "train.jsonl").read_bytes() != first
    assert (out / "index").is_dir()
    write_atlas(options)
    assert (out / "train.jsonl").read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == ["atlas"]


def test_an_interrupted_writing_is_done_again(tmp_path: Path) -> None:
    out = tmp_path / "atlas"
    options = AtlasOptions(out=str(out), num_tokenizer_texts=10, **SMALL)
    write_atlas(options)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["provenance"]["licence"] == "CC BY 4.0"
    del manifest["rows"]
    (out / "manifest.json").write_text(json.dumps(manifest))
    (out / "test.jsonl").unlink()
    write_atlas(options)
    assert load_questions(str(out / "test.jsonl"))


def test_a_file_that_was_removed_is_written_again(tmp_path: Path) -> None:
    options = AtlasOptions(out=str(tmp_path / "atlas"), num_tokenizer_texts=10, **SMALL)
    write_atlas(options)
    passages = tmp_path / "atlas" / "passages.jsonl"
    before = passages.read_bytes()
    passages.unlink()
    write_atlas(options)
    assert passages.read_bytes() == before


@pytest.mark.parametrize(
    ("chosen", "part"),
    [
        ({"num_cities": 1}, "the test"),
        ({"held_out_share": 0.001}, "the test"),
        ({"held_out_share": 0.999}, "training"),
    ],
)
def test_a_world_without_cities_to_ask_about_is_an_error(
    tmp_path: Path, chosen: dict[str, float], part: str
) -> None:
    with pytest.raises(InputError, match=f"leave no city to {part}"):
        write_atlas(AtlasOptions.load({"out": str(tmp_path / "a"), **chosen}, where="test"))
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("all my work")
    with pytest.raises(InputError, match="no atlas folder"):
        write_atlas(AtlasOptions(out=str(tmp_path)))
    assert (tmp_path / "thesis.tex").exists()


def test_names_are_folded_to_letters() -> None:
    assert fold("São Paulo") == "Sao Paulo"
    assert fold("Port-au-Prince") == "Port au Prince"
    assert fold("東京") == ""

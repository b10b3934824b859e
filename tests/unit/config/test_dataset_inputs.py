import json
from pathlib import Path

import pytest

from ur2.config.load import compose
from ur2.config.preflight import find_inputs, load_inputs
from ur2.errors import InputError
from ur2.policy.model.scratch import ScratchOptions, make_model

FIXTURE = Path(__file__).parents[2] / "fixtures" / "qa.jsonl"


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("tiny") / "model")
    small = ScratchOptions(vocab_size=300, hidden_size=16, num_layers=2, num_heads=2)
    make_model(small, ["What is it? It is a question about the world."], folder, seed=0)
    return folder


def arguments(model: str, train: Path, *more: str) -> list[str]:
    remote = ("retrieval.backend=http", "retrieval.url=http://127.0.0.1:1")
    return ["+experiment=smoke", f"model.path={model}", f"dataset.train={train}", *remote, *more]


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_training_questions_that_are_held_out_are_left_out_when_asked(
    tiny_model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    questions = rows(FIXTURE)
    held_out = tmp_path / "eval.jsonl"
    twin = questions[0] | {"id": "other", "text": str(questions[0]["text"]).upper()}
    held_out.write_text(json.dumps(twin) + "\n", encoding="utf-8")
    given = arguments(tiny_model, FIXTURE, f"dataset.eval={held_out}")
    ids = [str(question["id"]) for question in questions]
    assert [q.id for q in load_inputs(compose(given)).train] == ids
    with caplog.at_level("INFO", logger="ur2"):
        inputs = load_inputs(compose([*given, "dataset.exclude_overlap=true"]))
    assert [q.id for q in inputs.train] == ids[1:]
    assert [q.id for q in inputs.held_out] == ["other"]
    assert f"left out 1 of {len(ids)} training questions" in caplog.text


def test_nothing_left_and_nothing_held_out_are_errors(tiny_model: str) -> None:
    same = arguments(tiny_model, FIXTURE, f"dataset.eval={FIXTURE}", "dataset.exclude_overlap=true")
    with pytest.raises(InputError, match="every training question is held out"):
        load_inputs(compose(same))
    none = arguments(tiny_model, FIXTURE, "dataset.eval=null", "dataset.exclude_overlap=true")
    with pytest.raises(InputError, match=r"set dataset\.eval"):
        load_inputs(compose(none))


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("hf:nobody/nothing#/test", "on the hub"),
        (f"{FIXTURE}?task=qa", "here"),
        ("nowhere.jsonl?task=qa", "missing"),
    ],
)
def test_a_question_file_is_found_by_its_whole_name(name: str, state: str) -> None:
    found = {
        i.key: i for i in find_inputs(compose(["+experiment=smoke", f"dataset.train='{name}'"]))
    }
    assert found["dataset.train"].state == state
    assert found["dataset.train"].path == name


@pytest.mark.parametrize("content", [None, "{", "[1]", '{"model_type": "none such"}'])
def test_a_folder_without_a_model_is_named(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"model\.path '.*' is no model at hand"):
        load_inputs(compose(arguments(str(tmp_path), FIXTURE, "dataset.eval=null")))

import json
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ur2.config import resume
from ur2.config.load import compose
from ur2.config.resume import dated, fingerprint, refuse_changes, refuse_other_inputs
from ur2.config.schema import RunOptions
from ur2.errors import InputError
from ur2.options import option_keys
from ur2.types import Level, Question

QUESTIONS = [
    Question(id="q", task="qa", text="Who?", answers=("!",), level=Level.EASY),
    Question(id="r", task="qa", text="And who else?", answers=("!",), level=Level.EASY),
]


def options(*overrides: str) -> RunOptions:
    return compose(["+experiment=smoke", *overrides])


@pytest.mark.parametrize(
    "key", ["seed", "model.path", "algorithm.estimator", "environment.name", "policy.lora.rank"]
)
def test_what_would_be_another_objective_is_refused(key: str) -> None:
    with pytest.raises(InputError, match=f"other values of {key}"):
        refuse_changes(["trainer.steps", key], options(), of="the run")


def test_what_decides_nothing_may_change_unnoticed_and_all_else_is_told() -> None:
    changed = ["cluster.address", "trainer.steps", "model.shape.vocab_size", "policy.learning_rate"]
    assert refuse_changes(changed, options(), of="the run") == ["policy.learning_rate"]


def test_the_number_of_steps_may_change_only_where_no_schedule_counts_them() -> None:
    assert refuse_changes(["trainer.steps"], options(), of="the run") == []
    with pytest.raises(InputError, match=r"trainer\.steps"):
        refuse_changes(["trainer.steps"], options("policy.schedule=cosine"), of="the run")


def test_every_rule_is_about_an_option_that_there_is() -> None:
    known = {key for key, _ in option_keys(RunOptions)}
    for name in {*resume.RULES, *resume.UNDER_A_SCHEDULE} - {""}:
        assert any(key == name or key.startswith(f"{name}.") for key in known), name


def nudge_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "layers" in name)
    weights[name] = weights[name].clone().index_fill_(0, torch.tensor([0]), 0.5)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def add_to(name: str, **values: object) -> Callable[[Path], None]:
    """Changes a JSON file of a model folder."""

    def change(folder: Path) -> None:
        file = folder / name
        content = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**content, **values}))

    return change


def say_more(folder: Path) -> None:
    template = folder / "chat_template.jinja"
    template.write_text("Be brief. " + template.read_text())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (nudge_a_weight, "weights"),
        (add_to("tokenizer_config.json", model_max_length=77), "tokenizer"),
        (add_to("generation_config.json", eos_token_id=3), "generation config"),
        (say_more, "chat template, another prompt"),
    ],
)
def test_a_model_folder_that_was_rewritten_is_named(
    tiny_model: str, tmp_path: Path, change: Callable[[Path], None], named: str
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    of_model = options(f"model.path={folder}")
    kept = fingerprint(of_model, QUESTIONS)
    refuse_other_inputs(kept, fingerprint(of_model, QUESTIONS), of="it")
    change(folder)
    with pytest.raises(InputError, match=f"another {named}"):
        refuse_other_inputs(kept, fingerprint(of_model, QUESTIONS), of="it")


def test_other_words_in_the_prompt_are_another_prompt(tiny_model: str) -> None:
    given = options(f"model.path={tiny_model}")
    kept = fingerprint(given, QUESTIONS)
    other = options(f"model.path={tiny_model}", "prompt.system='Be brief.'")
    with pytest.raises(InputError, match=r"another prompt \(qa, retrieval off\)"):
        refuse_other_inputs(kept, fingerprint(other, QUESTIONS), of="it")


def test_a_block_in_the_middle_of_a_large_file_counts(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "BLOCK_BYTES", 8)
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    of_model = options(f"model.path={folder}")
    kept = fingerprint(of_model, QUESTIONS)
    weights = load_file(folder / "model.safetensors")
    shifted = {name: weight + 0.01 for name, weight in weights.items()}
    save_file(shifted, folder / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(of_model, QUESTIONS)["weights"] != kept["weights"]


def test_a_template_that_asks_for_the_date_gets_that_of_the_runs_first_day(
    tiny_model: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    template = folder / "chat_template.jinja"
    template.write_text("{{ strftime_now('%d %b %Y') }} " + template.read_text())
    given = options(f"model.path={folder}")
    first = fingerprint(dated(given, {"date": "2024-02-29"}), QUESTIONS)
    again = dated(given, first)
    assert again.prompt.date == date(2024, 2, 29)
    assert fingerprint(again, QUESTIONS) == first
    assert dated(given, {}).prompt.date == date.today()
    on_another_day = fingerprint(dated(given, {}), QUESTIONS)
    with pytest.raises(InputError, match="another prompt"):
        refuse_other_inputs(first, on_another_day, of="it")
    assert "29 Feb 2024" in resume.make_openings(again).prompt(QUESTIONS[0], True).text

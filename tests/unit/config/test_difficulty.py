import pytest

from ur2.config.difficulty import load_inputs
from ur2.config.load import compose_difficulty
from ur2.errors import InputError


def test_an_experiment_lends_its_questions_prompts_and_graders():
    options = compose_difficulty(["+experiment=medqa_qwen7b", "out=x", "levels.easy=0.9"])
    assert options.dataset.train == "data/medqa/train.jsonl"
    assert options.reward.graders["choice"] == "choice"
    assert options.rollout.sampling.seeded
    assert options.levels.easy == 0.9


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["out=x"], "choose an experiment"),
        (["+experiment=quickstart"], "choose a folder for the results: out=DIR"),
        (["+experiment=quickstart", "out=x", "sampels=4"], "did you mean 'samples'"),
        (["+experiment=quickstart", "out=x", "samples=0"], "'samples'"),
    ],
)
def test_what_is_missing_or_wrong_is_named(overrides, message):
    with pytest.raises(InputError, match=message):
        compose_difficulty(overrides)


def test_a_pass_rate_over_equal_samples_is_refused():
    given = ["+experiment=quickstart", "out=x", "rollout.sampling.temperature=0"]
    with pytest.raises(InputError, match=r"rollout\.sampling\.temperature must be above 0"):
        load_inputs(compose_difficulty(given))
    with pytest.raises(InputError, match="does not exist"):  # the next check
        load_inputs(compose_difficulty([*given, "samples=1", "model.path=nowhere/at/all"]))

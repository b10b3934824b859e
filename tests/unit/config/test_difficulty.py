import pytest

from ur2.config.difficulty import difficulty_settings, load_measured
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
        load_measured(compose_difficulty(given))
    with pytest.raises(InputError, match="does not exist"):  # the next check
        load_measured(compose_difficulty([*given, "samples=1", "model.path=nowhere/at/all"]))


REMOTE = ["+experiment=quickstart", "out=x", "engine=remote", "model.path=gpt"]
QUESTION = '{"id": "a", "task": "qa", "text": "Where?", "answers": ["Paris"], "level": "easy"}'
URL = "rollout.engine.remote.url=http://127.0.0.1:1/v1"
CHAT = "rollout.engine.remote.api=chat"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([URL], "model.path: 'gpt' does not exist"),
        ([CHAT], "remote.url is required"),
        ([URL, CHAT, "rollout.engine.remote.key_variable=UR2_NO_SUCH"], "UR2_NO_SUCH is not set"),
        ([URL, CHAT, "rollout.sampling.top_k=5"], "chat endpoints have no top_k"),
    ],
)
def test_an_endpoint_is_checked_before_anything_starts(tmp_path, overrides, message):
    file = tmp_path / "questions.jsonl"
    file.write_text(QUESTION)
    with pytest.raises(InputError, match=message):
        load_measured(compose_difficulty([*REMOTE, f"dataset.train={file}", *overrides]))


def test_an_endpoint_needs_no_gpu_and_no_model_here(tmp_path):
    file = tmp_path / "questions.jsonl"
    file.write_text(QUESTION)
    given = [*REMOTE, URL, CHAT, f"dataset.train={file}", "cluster.num_gpus_per_rollout_worker=8"]
    assert [question.id for question in load_measured(compose_difficulty(given))] == ["a"]


def test_a_measurement_goes_on_only_with_the_model_that_is_served():
    def decides(*overrides):
        return difficulty_settings(compose_difficulty([*REMOTE, URL, CHAT, *overrides]))

    assert decides() == decides(URL.replace("127", "128"))
    assert decides() != decides("rollout.engine.remote.model=other")
    assert decides() != decides("engine=hf")

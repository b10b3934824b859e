from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import yaml

from ur2.curriculum.options import CurriculumOptions, PolicyName
from ur2.curriculum.retrieval_policy import POLICIES
from ur2.errors import InputError

CONFIGS = Path(__file__).parents[3] / "configs" / "curriculum"


def load(name: str) -> CurriculumOptions:
    tree = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    return CurriculumOptions.load(tree, where=name)


def share(options, question, draws=4000) -> float:
    policy, rng = POLICIES[options.policy](options), np.random.default_rng(0)
    return sum(policy.decide(question, 1, rng)[0] for _ in range(draws)) / draws


def test_subjects_may_be_left_without_retrieval_as_published_code_leaves_law(make_questions):
    (question,) = make_questions({"choice/very_hard": 1})
    law = [replace(question, subject="law"), replace(question, meta={"source": "law"})]
    options = load("ur2_mcq")
    published = options.model_copy(update={"without_retrieval": ("law",)})
    for of_law in law:
        assert share(options, of_law) == 1.0
        assert share(published, of_law) == 0.0
        assert not POLICIES["static"](published).prefers(of_law)
    assert share(published, replace(question, subject="history")) == 1.0


def test_every_policy_name_has_a_policy():
    assert set(POLICIES) == set(get_args(PolicyName))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_curriculum_loads(path):
    assert load(path.stem).policy in POLICIES


@pytest.mark.parametrize(
    ("name", "probabilities"),
    [
        ("never", {"qa/hard": 0, "choice/very_hard": 0}),
        ("always", {"qa/easy": 1, "math/medium": 1}),
        ("atlas", {"qa/easy": 0.25, "qa/medium": 1, "qa/hard": 1}),
        (
            "ur2_mcq",
            {"choice/easy": 0, "choice/medium": 0, "choice/hard": 5 / 7, "choice/very_hard": 1},
        ),
    ],
)
def test_retrieval_is_on_as_often_as_the_table_says(make_questions, name, probabilities):
    for bucket, probability in probabilities.items():
        question = make_questions({bucket: 1})[0]
        tolerance = 0.03 if 0 < probability < 1 else 0
        assert share(load(name), question) == pytest.approx(probability, abs=tolerance)


@pytest.mark.parametrize(
    ("name", "preferred"),
    [("never", set()), ("always", {"qa/easy", "qa/hard"}), ("static", {"qa/hard"})],
)
def test_retrieval_is_preferred_where_it_is_more_often_on(make_questions, name, preferred):
    policy = POLICIES[load(name).policy](load(name))
    questions = make_questions({"qa/easy": 1, "qa/hard": 1})
    assert {q.bucket for q in questions if policy.prefers(q)} == preferred


def test_the_reason_names_policy_bucket_and_probability(make_questions):
    options, rng = load("ur2_mcq"), np.random.default_rng(0)
    question = make_questions({"choice/hard": 1})[0]
    _, reason = POLICIES["static"](options).decide(question, 1, rng)
    assert reason == "static choice/hard p=0.71"


def test_the_atlas_without_a_table_draws_the_same_mix():
    assert load("atlas_adaptive").bucket_weights == load("atlas").bucket_weights


def test_the_atlas_draws_every_level_equally():
    assert set(load("atlas").bucket_weights.values()) == {1.0}
    assert set(load("atlas").bucket_weights) == {"qa/easy", "qa/medium", "qa/hard"}


@pytest.mark.parametrize(
    "tree",
    [
        {"policy": "sometimes"},
        {"static": {"qa/hrad": 1.0}},
        {"static": {"qa/hard": 1.5}},
        {"bucket_weights": {"qa/hard": -1}},
        {"bucket_weights": {"hard": 1}},
        {"bucket_weight": {}},
        {"cost_per_search": -0.1},
        {"adaptive": {"exploration": 0.0}},
    ],
)
def test_bad_options_are_refused(tree):
    with pytest.raises(InputError, match=next(iter(tree))):
        CurriculumOptions.load(tree, where="curriculum")

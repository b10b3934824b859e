"""The vectors of UR²'s rewards over the shipped tables: stages, models, steps counted from 0."""

import pytest
import torch
import yaml

from ur2.algorithms import estimate
from ur2.config.load import CONFIGS, compose
from ur2.rewards.format import violations

BOXED = r"\boxed{Paris}"
QUERY = "<|begin_of_query|> who <|end_of_query|>"
LONG = f"<|begin_of_query|> {'w ' * 21}<|end_of_query|>"
RIGHT = "the correct answer is: A"


def at(step: int) -> int:
    """The published code counts rollouts from 0."""
    return step + 1


@pytest.mark.parametrize(
    ("model", "one", "two"), [("qwen7b", 4, 5), ("qwen3b", 6, 8), ("llama8b", 4, 4)]
)
async def test_stage_1_pays_for_searching_in_its_first_steps(
    load_reward, score, ur2, model, one, two
):
    options = load_reward(f"ur2_stage1_{model}")
    for step in (at(3), at(14)):
        assert (await score(options, ur2, QUERY, BOXED, step=step)).total == one
        assert (await score(options, ur2, QUERY, QUERY, BOXED, step=step)).total == two
        assert (await score(options, ur2, BOXED, step=step)).total == -1
    assert (await score(options, ur2, QUERY, BOXED, step=at(15))).total == 1


async def test_stage_1_counts_violations_and_fixed_replies(load_reward, score, ur2):
    turns = [QUERY, "Paris \u5df4\u9ece"]
    scored = await score(
        load_reward("ur2_stage1_qwen7b"), ur2, *turns, outcomes=["unsearchable"], step=at(20)
    )
    assert scored.total == -2.5


@pytest.mark.parametrize(
    ("turns", "outcomes", "total"),
    [
        ([QUERY, r"\boxed{Paris is in Ile de}"], ["found"], 2.6),
        ([QUERY, r"\boxed{Paris is in Ile de}"], ["unsearchable"], 2.1),
        ([LONG, r"\boxed{Paris is in Ile de}"], ["found"], 1.6),
    ],
)
async def test_stage_2_adds_twice_f1_a_clean_format_and_fixed_replies(
    load_reward, score, ur2, turns, outcomes, total
):
    golds = ("Paris is in France Ile",)  # four of five words on both sides
    scored = await score(load_reward("ur2_stage2"), ur2, *turns, answers=golds, outcomes=outcomes)
    assert scored.total == pytest.approx(total)


async def test_a_right_choice_with_chinese_elsewhere_is_not_clean(load_reward, score, ur2):
    scored = await score(
        load_reward("ur2_medqa"), ur2, f"\u5df4\u9ece {RIGHT}", task="choice", step=at(20)
    )
    assert scored.total == 2


async def test_the_bonus_of_medqa_ends_before_step_10(load_reward, score, ur2):
    turns = [QUERY, QUERY, RIGHT]
    options = load_reward("ur2_medqa")
    assert (await score(options, ur2, *turns, task="choice", step=at(9))).total == 4
    assert (await score(options, ur2, *turns, task="choice", step=at(10))).total == 3


async def test_llama_must_search_at_every_step_of_medqa(load_reward, score, ur2):
    options = load_reward("ur2_medqa_llama8b")
    for step in (at(0), at(99)):
        assert (await score(options, ur2, RIGHT, task="choice", step=step)).parts["format"] == 0
    assert (await score(options, ur2, QUERY, RIGHT, task="choice", step=at(99))).total == 3
    off = await score(options, ur2, RIGHT, task="choice", step=at(99), retrieval=False)
    assert off.total == 3
    assert compose(["+experiment=medqa_llama8b"]).reward.min_searches == 1


async def test_of_two_boxes_the_last_one_counts_and_the_form_is_not_clean(load_reward, score, ur2):
    # The published pattern reads from the first brace to the last, which is no answer of anyone's.
    scored = await score(load_reward("ur2_stage2"), ur2, "\\boxed{Rome}\n\\boxed{Paris}")
    assert scored.total == 2


def test_advantages_are_distances_from_the_groups_mean_before_they_are_whitened():
    reward_B = torch.tensor([3.0, 1.0, 1.0, 1.0])
    group_B, mask_BT = torch.zeros(4, dtype=torch.long), torch.ones(4, 2, dtype=torch.bool)
    found_BT = estimate("reinforce_pp_baseline", reward_B, group_B, mask_BT)
    centred_B = torch.tensor([1.5, -0.5, -0.5, -0.5])
    deviation = centred_B.repeat_interleave(2).std(unbiased=False)
    torch.testing.assert_close(found_BT[:, 0], centred_B / deviation, rtol=0.2, atol=0.0)
    assert found_BT[0, 0] / found_BT[1, 0] == pytest.approx(-3.0)


@pytest.mark.parametrize(
    ("turns", "retrieval", "intended", "published"),
    [
        (["Paris"], True, -1, -1),
        (["Paris"], False, -1, 0),  # not clean, and nobody spoke of searching
        ([BOXED], False, 1, 1),
        ([QUERY, BOXED], False, -1, 1),  # searching where it is off cannot be seen
        ([r"\boxed{}"], False, -1, 1),  # an empty box is a box
    ],
)
async def test_quirks_of_the_published_form_are_a_switch(
    load_reward, score, ur2, turns, retrieval, intended, published
):
    asked = {"step": at(20), "retrieval": retrieval, "outcomes": ["refused"] * (len(turns) - 1)}
    assert (await score(load_reward("ur2_stage1_qwen7b"), ur2, *turns, **asked)).total == intended
    options = load_reward("ur2_stage1_qwen7b").model_copy(update={"as_published": True})
    assert (await score(options, ur2, *turns, **asked)).total == published


def test_an_empty_answer_of_multiple_choice_is_none_as_published_too(
    make_trajectory, make_question, ur2
):
    found = violations(
        make_trajectory("the correct answer is:"),
        make_question("choice"),
        retrieval=True,
        answer=None,
        markup=ur2,
        as_published=True,
    )
    assert "not_one_answer" in found


@pytest.mark.parametrize(
    "experiment",
    [p.stem for p in sorted((CONFIGS / "experiment").glob("*.yaml"))
     if p.stem.startswith(("medqa", "math_rag", "vanilla"))],
)  # fmt: skip
def test_every_experiment_of_ur2_has_its_reduction_and_its_rule_of_punctuation(experiment):
    options = compose([f"+experiment={experiment}"])
    assert options.algorithm.reduction == "seq_mean_token_mean"
    for reward in (options.reward, *options.rewards.values()):
        assert reward.qa.normalise == "spaces"
    assert not options.reward.as_published


def test_benchmarks_of_open_questions_normalise_as_ur2_does():
    for path in (CONFIGS / "benchmark").glob("*.yaml"):
        tree = yaml.safe_load(path.read_text())
        if tree.get("task") == "qa" and "UR²" in str(tree.get("published")):
            assert tree["normalise"] == "spaces", path.name

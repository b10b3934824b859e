from dataclasses import replace

import pytest

from ur2.config.load import CONFIGS
from ur2.errors import InputError
from ur2.rewards.options import RewardOptions
from ur2.rewards.rubric import Rubric
from ur2.rewards.terms import TERMS
from ur2.types import Assignment, Author, Group

REWARDS = sorted(path.stem for path in (CONFIGS / "reward").glob("*.yaml"))
RIGHT, WRONG = "<answer>Paris</answer>", "<answer>Rome</answer>"
SEARCH = "<search> who </search>"


@pytest.mark.parametrize("name", REWARDS)
def test_every_shipped_reward_loads(load_reward, name):
    options = load_reward(name)
    assert options.terms
    assert {term.kind for term in options.terms.values()} <= set(TERMS)


@pytest.mark.parametrize(
    ("turns", "level", "parts"),
    [
        ([RIGHT], "easy", (1.0, 0.1, 0.0)),
        ([WRONG], "easy", (0.0, 0.1, 0.0)),
        (["Paris"], "easy", (0.0, 0.0, 0.0)),
        ([SEARCH, RIGHT], "easy", (1.0, 0.1, -0.1)),
        ([SEARCH, SEARCH, RIGHT], "easy", (1.0, 0.1, -0.2)),
        ([SEARCH, SEARCH, RIGHT], "medium", (1.0, 0.1, 0.0)),
        ([SEARCH, SEARCH, RIGHT], "hard", (1.0, 0.1, 0.0)),
        ([SEARCH], "hard", (0.0, 0.0, 0.0)),
    ],
)
async def test_the_atlas_table(load_reward, score, atlas, turns, level, parts):
    shown = await score(load_reward("atlas"), atlas, *turns, level=level)
    assert shown.parts == pytest.approx(
        dict(zip(("correct", "format", "search_cost"), parts, strict=True))
    )
    assert shown.total == pytest.approx(sum(parts))
    assert shown.correct == parts[0]


UR2_RIGHT, UR2_WRONG = "the correct answer is: A", "the correct answer is: B"
UR2_SEARCH = "<|begin_of_query|> who <|end_of_query|>"


@pytest.mark.parametrize(
    ("turns", "outcomes", "step", "retrieval", "parts"),
    [
        ([UR2_RIGHT], [], 1, True, (2, 1, 0, 0)),
        ([UR2_WRONG], [], 1, True, (0, 1, 0, 0)),
        (["A"], [], 1, True, (0, 0, 0, 0)),
        (["the correct answer is: A. Paris"], [], 1, True, (2, 0, 0, 0)),
        ([UR2_SEARCH, UR2_RIGHT], ["found"], 1, True, (2, 1, 0, 0.5)),
        ([UR2_SEARCH, UR2_RIGHT], ["found"], 10, True, (2, 1, 0, 0.5)),
        ([UR2_SEARCH, UR2_RIGHT], ["found"], 11, True, (2, 1, 0, 0)),
        ([UR2_SEARCH] * 2 + [UR2_WRONG], ["found"] * 2, 10, True, (0, 1, 0, 1.0)),
        ([UR2_SEARCH] * 3 + [UR2_WRONG], ["found"] * 3, 3, True, (0, 1, 0, 1.0)),
        ([UR2_SEARCH, UR2_RIGHT], ["unsearchable"], 11, True, (2, 1, -0.5, 0)),
        ([UR2_SEARCH] * 2 + [UR2_RIGHT], ["unsearchable"] * 2, 11, True, (2, 1, -1.0, 0)),
        ([UR2_SEARCH], ["refused"], 1, False, (0, 0, 0, 0)),
        ([UR2_RIGHT], [], 1, False, (2, 1, 0, 0)),
    ],
)
async def test_the_medqa_table_of_the_paper(
    load_reward, score, ur2, turns, outcomes, step, retrieval, parts
):
    shown = await score(
        load_reward("ur2_medqa"),
        ur2,
        *turns,
        task="choice",
        outcomes=outcomes,
        step=step,
        retrieval=retrieval,
    )
    names = ("answer", "format", "unsearchable", "search_bonus", "clip")
    assert shown.parts == dict(zip(names, (*parts, 0), strict=True))
    assert shown.total == sum(parts)
    assert shown.correct == parts[0] / 2


BOXED = r"\boxed{Paris}"
LONG_QUERY = f"<|begin_of_query|> {'w ' * 21}<|end_of_query|>"


@pytest.mark.parametrize(
    ("turns", "outcomes", "step", "parts"),
    [
        ([BOXED], [], 1, (0, -1, 0, "0")),
        ([BOXED], [], 15, (0, -1, 0, "0")),
        ([BOXED], [], 16, (1, 0, 0, "-")),
        ([UR2_SEARCH, BOXED], ["found"], 1, (1, 0, 0, "1")),
        ([UR2_SEARCH, BOXED], ["found"], 15, (1, 0, 0, "1")),
        ([UR2_SEARCH, BOXED], ["found"], 16, (1, 0, 0, "-")),
        ([UR2_SEARCH] * 2 + [BOXED], ["found"] * 2, 1, (1, 0, 0, "2")),
        ([UR2_SEARCH] * 3 + [BOXED], ["found"] * 3, 1, (1, 0, 0, "2")),
        ([UR2_SEARCH] * 2 + [BOXED], ["unsearchable"] * 2, 1, (1, 0, -1, "2")),
        ([UR2_SEARCH] * 2 + [BOXED], ["unsearchable", "found"], 16, (1, 0, -0.5, "-")),
        ([UR2_SEARCH, "Paris"], ["found"], 1, (0, -1, 0, "1")),
        ([UR2_SEARCH, "Paris 巴黎"], ["found"], 1, (0, -2, 0, "1")),
        ([LONG_QUERY] * 2 + ["巴黎"], ["found"] * 2, 1, (0, -4, 0, "2")),
        ([UR2_SEARCH, r"\boxed{wrong}"], ["found"], 1, (1, 0, 0, "1")),
    ],
)
@pytest.mark.parametrize(
    ("model", "bonuses"),
    [
        ("qwen7b", {"0": 0, "1": 3, "2": 4, "-": 0}),
        ("qwen3b", {"0": 0, "1": 5, "2": 7, "-": 0}),
        ("llama8b", {"0": 0, "1": 3, "2": 3, "-": 0}),
    ],
)
async def test_the_stage_1_tables_of_the_paper(
    load_reward, score, ur2, model, bonuses, turns, outcomes, step, parts
):
    shown = await score(
        load_reward(f"ur2_stage1_{model}"), ur2, *turns, outcomes=outcomes, step=step
    )
    *fixed, bonus = parts
    names = ("format", "violations", "unsearchable", "search_bonus", "clip")
    assert shown.parts == dict(zip(names, (*fixed, bonuses[bonus], 0), strict=True))
    assert shown.total == sum(fixed) + bonuses[bonus]


@pytest.mark.parametrize(
    ("task", "turns", "golds", "outcomes", "parts"),
    [
        ("qa", [BOXED], ("Paris",), [], (2, 1, 0)),
        ("qa", [r"\boxed{Paris France}"], ("Paris",), [], (4 / 3, 1, 0)),
        ("qa", [r"\boxed{Rome}"], ("Paris",), [], (0, 1, 0)),
        ("qa", [f"{BOXED} {BOXED}"], ("Paris",), [], (2, 0, 0)),
        ("qa", [UR2_SEARCH, BOXED], ("Paris",), ["unsearchable"], (2, 1, -0.5)),
        ("math", [r"\boxed{\frac{1}{2}}"], ("0.5",), [], (2, 1, 0)),
        ("math", [r"\boxed{1}"], ("2",), [], (0, 1, 0)),
        ("math", ["1"], ("1",), [], (0, 0, 0)),
        ("choice", [UR2_RIGHT], ("A",), [], (2, 1, 0)),
        ("choice", [UR2_WRONG], ("A",), [], (0, 1, 0)),
        ("choice", ["the correct answer is a drug"], ("A",), [], (0, 0, 0)),
    ],
)
@pytest.mark.parametrize("step", [1, 100])
async def test_the_stage_2_table_of_the_paper(
    load_reward, score, ur2, task, turns, golds, outcomes, parts, step
):
    options = load_reward("ur2_stage2")
    shown = await score(
        options, ur2, *turns, task=task, answers=golds, outcomes=outcomes, step=step
    )
    names = ("answer", "format", "unsearchable", "clip")
    assert shown.parts == pytest.approx(dict(zip(names, (*parts, 0), strict=True)))
    assert shown.total == pytest.approx(sum(parts))


@pytest.mark.parametrize(("name", "last"), [("ur2_medqa", 10), ("ur2_medqa_qwen3b", 15)])
async def test_the_medqa_bonus_lasts_as_long_as_the_model_needs(
    load_reward, score, ur2, name, last
):
    turns = [UR2_SEARCH, UR2_RIGHT]
    totals = [
        (await score(load_reward(name), ur2, *turns, task="choice", step=step)).total
        for step in (1, last, last + 1)
    ]
    assert totals == [3.5, 3.5, 3.0]


async def test_the_vanilla_table_ignores_searches(load_reward, score, ur2):
    shown = await score(load_reward("vanilla"), ur2, BOXED, retrieval=False)
    assert shown.parts == {"answer": 2.0, "format": 1.0, "clip": 0.0}


@pytest.mark.parametrize(
    ("turns", "total"),
    [([RIGHT], 1.0), ([SEARCH, RIGHT], 1.0), (["<answer>in Paris</answer>"], 0.0), (["x"], 0.0)],
)
async def test_the_search_r1_table(load_reward, score, turns, total, atlas):
    assert (await score(load_reward("search_r1"), atlas, *turns)).total == total


ALL_MET = {
    "a": {"kind": "answer"},
    "f": {"kind": "format"},
    "s": {"kind": "searches", "weight": 0.0},
    "bonus": {"kind": "constant", "weight": 10.0, "requires": ["a", "f", "s"]},
    "malformed": {"kind": "constant", "weight": -1.0, "unless": ["f"]},
}


@pytest.mark.parametrize(
    ("turns", "parts"),
    [
        ([SEARCH, RIGHT], (1, 1, 0, 10, 0)),
        ([SEARCH, SEARCH, RIGHT], (1, 1, 0, 10, 0)),
        ([RIGHT], (1, 1, 0, 0, 0)),
        ([SEARCH, WRONG], (0, 1, 0, 0, 0)),
        ([SEARCH, "巴" + RIGHT], (1, 0, 0, 0, -1)),
    ],
)
async def test_a_bonus_is_given_where_all_is_met_and_a_penalty_where_nothing_is(
    score, atlas, turns, parts
):
    options = RewardOptions.load({"terms": ALL_MET, "graders": {"qa": "f1"}}, where="reward")
    shown = await score(options, atlas, *turns)
    assert shown.parts == dict(zip(ALL_MET, parts, strict=True))


async def test_a_term_whose_gate_is_closed_measures_nothing_for_others(score, atlas):
    terms = {**ALL_MET, "s": {"kind": "searches", "levels": ["easy"]}}
    options = RewardOptions.load({"terms": terms, "graders": {"qa": "f1"}}, where="reward")
    assert (await score(options, atlas, SEARCH, RIGHT, level="hard")).parts["bonus"] == 0.0
    assert (await score(options, atlas, SEARCH, RIGHT, level="easy")).parts["bonus"] == 10.0


@pytest.mark.parametrize("gate", ["requires", "unless"])
def test_a_condition_on_an_unknown_term_is_refused(gate):
    terms = {"a": {"kind": "answer"}, "b": {"kind": "constant", gate: ["c"]}}
    with pytest.raises(InputError, match="term 'b' names 'c', which is no term"):
        RewardOptions.load({"terms": terms, "graders": {"qa": "f1"}}, where="reward")


@pytest.mark.parametrize("task", ["qa", "math"])
def test_letters_are_not_looked_for_where_questions_have_no_options(atlas, task):
    with pytest.raises(InputError, match=f"graders.{task} cannot be 'choice'"):
        Rubric.from_options(options(graders={task: "choice"}), atlas)


def options(clip=None, graders=None, **term):
    tree = {"terms": {"x": {"kind": "answer", **term}}, "graders": graders or {"qa": "exact_match"}}
    return RewardOptions.load({**tree, "clip": clip}, where="reward")


@pytest.mark.parametrize(
    ("gates", "open_"),
    [
        ({}, True),
        ({"levels": ["hard"]}, True),
        ({"levels": ["easy", "very_hard"]}, False),
        ({"tasks": ["qa"]}, True),
        ({"tasks": ["math", "choice"]}, False),
        ({"retrieval": True}, True),
        ({"retrieval": False}, False),
        ({"retrieval": True, "levels": ["easy"]}, False),
    ],
)
async def test_a_term_counts_where_all_its_gates_are_open(score, atlas, gates, open_):
    shown = await score(options(weight=3.0, **gates), atlas, RIGHT)
    assert shown.parts == {"x": 3.0 if open_ else 0.0}
    assert shown.correct == 1.0


PHASES = [{"until": 2, "value": 1.0}, {"until": 4, "value": 0.5}]


@pytest.mark.parametrize(
    ("phases", "weights"),
    [(PHASES, [1, 1, 0.5, 0.5, 0, 0]), ([*PHASES, {"value": 0.1}], [1, 1, 0.5, 0.5, 0.1, 0.1])],
)
async def test_a_weight_is_a_function_of_the_step(score, atlas, phases, weights):
    totals = [
        (await score(options(weight=phases), atlas, RIGHT, step=step)).total for step in range(1, 7)
    ]
    assert totals == weights


async def test_terms_and_totals_are_clipped_and_parts_still_sum_to_the_total(score, atlas):
    clipped = await score(options(weight=50.0, clip=(-1.0, 2.0)), atlas, RIGHT)
    assert (clipped.total, clipped.parts) == (2.0, {"x": 50.0, "clip": -48.0})
    tree = {"terms": {"x": {"kind": "answer", "weight": 50.0, "clip": [0.0, 3.0]}}}
    term = RewardOptions.load({**tree, "graders": {"qa": "f1"}}, where="reward")
    assert (await score(term, atlas, RIGHT)).total == 3.0


@pytest.mark.parametrize(
    ("grader", "task", "text", "golds", "grade"),
    [
        ("exact_match", "qa", "Paris", ("Rome", "paris"), 1.0),
        ("exact_match", "qa", r"\text{Paris}", ("Paris",), 1.0),
        ("cover_exact_match", "qa", "in Paris", ("Paris",), 1.0),
        ("f1", "qa", "Paris France", ("Paris",), 2 / 3),
        ("choice", "choice", "B", ("A",), 0.0),
        ("choice", "choice", "Paris", ("A",), 1.0),
        ("equivalent", "math", "x + 1", ("7", "x+1"), 1.0),
        ("equivalent", "math", r"\frac{1}{2}", ("0.5",), 1.0),
        ("equivalent", "math", "3", ("4",), 0.0),
    ],
)
async def test_graders(score, atlas, grader, task, text, golds, grade):
    chosen = options(graders={task: grader})
    shown = await score(chosen, atlas, f"<answer>{text}</answer>", task=task, answers=golds)
    assert shown.correct == pytest.approx(grade)


async def test_markers_in_documents_do_not_answer(
    load_reward, atlas, make_question, make_trajectory, answered
):
    trajectory = answered(make_trajectory("I think Paris", documents=RIGHT), atlas, "qa")
    assignment = Assignment(id="1-0", question=make_question(), retrieval=True, reason="", step=1)
    group = Group(assignment=assignment, trajectories=(trajectory,))
    scored = await Rubric.from_options(load_reward("atlas"), atlas).score(group, 1)
    assert scored.scores[0].correct == 0.0


async def test_an_answer_before_a_last_search_does_not_count(load_reward, score, atlas):
    assert (await score(load_reward("atlas"), atlas, f"{RIGHT} {SEARCH}")).correct == 0.0


async def test_scores_keep_the_order_of_the_trajectories(
    load_reward, atlas, make_question, make_trajectory, answered
):
    assignment = Assignment(id="1-0", question=make_question(), retrieval=True, reason="", step=1)
    trajectories = tuple(
        answered(make_trajectory(text), atlas, "qa") for text in (RIGHT, WRONG, RIGHT)
    )
    group = Group(assignment=assignment, trajectories=trajectories)
    scored = await Rubric.from_options(load_reward("atlas"), atlas).score(group, 1)
    assert scored.group is group
    assert [score.correct for score in scored.scores] == [1.0, 0.0, 1.0]


async def test_a_task_without_grader_is_refused_by_name(score, atlas):
    with pytest.raises(InputError, match=r"'q1' is a 'math' task.*graders.math"):
        await score(options(), atlas, RIGHT, task="math")


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"kind": "anwser"}, "answer"),
        ({"kind": "search_bonus"}, "kind 'search_bonus' needs `values`"),
        ({"values": [1.0]}, "kind 'answer' has no `values`"),
        ({"weight": []}, "increasing `until`"),
        ({"weight": [{"value": 1.0}, {"value": 2.0, "until": 3}]}, "increasing `until`"),
        ({"clip": [1.0, 0.0]}, r"\[lowest, highest\]"),
        ({"weigth": 1.0}, "weigth"),
        ({"levels": ["hardest"]}, "hard"),
    ],
)
def test_bad_terms_are_refused(atlas, term, message):
    with pytest.raises(InputError, match=message):
        Rubric.from_options(options(**term), atlas)


async def test_what_an_environment_gives_a_turn_counts_unless_a_term_weighs_it(
    make_question, make_trajectory, atlas
):
    plain = make_trajectory("look", RIGHT)
    rewards = iter((0.25, -0.5))
    segments = tuple(
        replace(s, reward=next(rewards)) if s.author is Author.POLICY else s for s in plain.segments
    )
    played = replace(plain, segments=segments, answer="Paris")
    assignment = Assignment(
        id="g", question=make_question(answers=("Paris",)), retrieval=True, reason="", step=1
    )

    async def score(**terms):
        tree = {"terms": terms, "graders": {"qa": "exact_match"}}
        rubric = Rubric.from_options(RewardOptions.load(tree, where="reward"), atlas)
        scored = await rubric.score(Group(assignment=assignment, trajectories=(played,)), 1)
        return scored.scores[0]

    as_given = await score(answer={"kind": "answer"})
    assert as_given.parts == {"answer": 1.0, "turns": -0.25}
    assert (as_given.total, as_given.turns) == (0.75, (0.25, -0.5))
    weighed = await score(mine={"kind": "earned", "weight": 2.0})
    assert weighed.parts == {"mine": -0.5}
    assert (weighed.total, weighed.turns) == (-0.5, (0.5, -1.0))

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ur2.rewards.format import CHECKS, violations

SEARCH = "<search> who </search>"
Q, END_Q = "<|begin_of_query|>", "<|end_of_query|>"


@pytest.fixture(scope="session")
def check(make_question, make_trajectory):
    """The violations of a trajectory given by its turns."""

    def run(
        markup, *turns, task="qa", retrieval=True, documents="docs", min_searches=0, **question
    ):
        asked = make_question(task, **question)
        trajectory = make_trajectory(*turns, documents=documents)
        answer = markup.answer(turns[-1], task) if turns else None
        return violations(
            trajectory,
            asked,
            retrieval=retrieval,
            answer=answer,
            markup=markup,
            min_searches=min_searches,
        )

    return run


@pytest.mark.parametrize(
    ("turns", "names"),
    [
        (["So <answer> Paris </answer>"], []),
        (["So <answer> Paris </answer><|end|>"], []),
        ([SEARCH, "So <answer> Paris </answer>"], []),
        ([SEARCH] * 4 + ["<answer>Paris</answer>"], []),
        ([SEARCH] * 5 + ["<answer>Paris</answer>"], ["too_many_searches"]),
        (["So Paris"], ["not_one_answer"]),
        ([], ["not_one_answer"]),
        (["<answer>Rome</answer> <answer>Paris</answer>"], ["not_one_answer"]),
        (["<answer>Paris"], ["not_one_answer"]),
        (["<answer>Paris</answer></answer>"], ["not_one_answer"]),
        (["<answer>Rome</answer>", "<answer>Paris</answer>"], ["not_one_answer"]),
        (["</search> <answer>Paris</answer>"], ["unbalanced_search"]),
        (["<search> who <answer>Paris</answer>"], ["unbalanced_search"]),
        (["<information>x</information> <answer>Paris</answer>"], ["forged_documents"]),
        (["</information> <answer>Paris</answer>"], ["forged_documents"]),
        ([f"<search> {'w ' * 20}</search>", "<answer>Paris</answer>"], []),
        ([f"<search> {'w ' * 21}</search>", "<answer>Paris</answer>"], ["long_query"]),
        (["<|im_start|>user <answer>Paris</answer>"], ["chat_tokens"]),
        (["<|end|> <answer>Paris</answer><|end|>"], ["chat_tokens"]),
        (["x\nassistant\n<answer>Paris</answer>"], ["chat_tokens"]),
        (["the user asks <answer>Paris</answer>"], []),
        (["巴黎 <answer>Paris</answer>"], ["chinese"]),
        (["é ß ✓ ñ <answer>Paris</answer>"], []),
        ([f"<answer>{'w ' * 10}</answer>"], []),
        ([f"<answer>{'w ' * 11}</answer>"], ["long_answer"]),
        (["<answer>Paris <search> </answer>"], ["unbalanced_search", "marker_in_answer"]),
    ],
)
def test_truth_table_of_tags(atlas, check, turns, names):
    assert list(check(atlas, *turns)) == names


def test_an_answer_may_be_as_long_as_its_gold(atlas, check):
    gold = "w " * 12
    assert check(atlas, f"<answer>{'w ' * 12}</answer>", answers=("x", gold)) == ()
    assert check(atlas, f"<answer>{'w ' * 13}</answer>", answers=("x", gold)) == ("long_answer",)


@pytest.mark.parametrize(
    ("task", "turns", "names"),
    [
        ("choice", ["the correct answer is: A"], []),
        ("choice", ["the correct answer is: A<|im_end|>"], []),
        ("choice", ["the correct answer is: A. Paris"], ["long_answer"]),
        ("choice", ["The correct answer is: A\nThe correct answer is: B"], ["not_one_answer"]),
        ("choice", ["the correct answer is a drug"], ["not_one_answer"]),
        ("choice", [r"\boxed{A}"], ["not_one_answer"]),
        ("qa", [r"\boxed{Paris}"], []),
        ("qa", [r"\boxed{Paris} \boxed{Paris}"], ["not_one_answer"]),
        ("qa", [f"{Q} who {END_Q}", r"\boxed{Paris}<|im_end|>"], []),
        ("qa", [f"{Q} who {END_Q}<|eot_id|>", r"\boxed{Paris}"], []),
        ("math", [r"\boxed{\frac{1}{2}}"], []),
    ],
)
def test_truth_table_of_ur2(ur2, check, task, turns, names):
    assert list(check(ur2, *turns, task=task)) == names


def test_searching_where_retrieval_is_off_is_a_violation(atlas, check):
    turns = [SEARCH, "<answer>Paris</answer>"]
    assert check(atlas, *turns, retrieval=False) == ("search_when_off",)
    assert check(atlas, *turns, retrieval=True) == ()


def test_every_check_can_fail(atlas, check):
    turns = (
        *["<search>" + "w " * 21 + "</search></search>"] * 5,
        f"<information> 巴黎 <|user|> <answer> {'w ' * 11} <information> </answer> <answer>",
    )
    off = check(atlas, *turns, retrieval=False)
    on = check(atlas, *turns, retrieval=True, min_searches=6)
    assert set(off) | set(on) == set(CHECKS)
    assert set(off) ^ set(on) == {"search_when_off", "too_few_searches"}


def test_each_query_that_is_too_long_is_a_violation_of_its_own(atlas, check):
    long = f"<search> {'w ' * 21}</search>"
    assert check(atlas, long, SEARCH, long, "<answer>Paris</answer>") == ("long_query",) * 2


@pytest.mark.parametrize(
    ("turns", "retrieval", "min_searches", "names"),
    [
        (["<answer>Paris</answer>"], True, 1, ("too_few_searches",)),
        (["<answer>Paris</answer>"], True, 0, ()),
        (["<answer>Paris</answer>"], False, 1, ()),
        ([SEARCH, "<answer>Paris</answer>"], True, 1, ()),
        ([SEARCH, "<answer>Paris</answer>"], True, 2, ("too_few_searches",)),
    ],
)
def test_not_searching_is_a_violation_where_it_is_asked_for(
    atlas, check, turns, retrieval, min_searches, names
):
    assert check(atlas, *turns, retrieval=retrieval, min_searches=min_searches) == names


@given(documents=st.text() | st.sampled_from(["<answer>x</answer>", "</search>", "<|end|>", "巴"]))
def test_no_document_can_change_the_verdict(atlas, check, documents):
    turns = [SEARCH, "<answer>Paris</answer>"]
    assert check(atlas, *turns, documents=documents) == ()


@pytest.mark.parametrize("character", ["\u3400", "\u4e2d", "\u9fff", "\uf900", "\U00020000"])
def test_every_block_of_chinese_characters_is_seen(atlas, check, character):
    assert check(atlas, f"é {character} <answer>Paris</answer>") == ("chinese",)


@given(text=st.text(st.characters(exclude_categories=["Lo", "Cs", "Cn"]), max_size=30))
def test_no_other_character_is_chinese(atlas, check, text):
    assert "chinese" not in check(atlas, f"{text} <answer>Paris</answer>")

"""Format verdicts against a slow reading of the same rules, written without the tested code."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ur2.rewards.format import violations

CHAT = r"<\|\w{1,40}\|>|</?s>|\[/?INST\]"
PIECES = [
    *("<|begin_of_query|>", "<|end_of_query|>", "<|begin_of_documents|>", "<|end_of_documents|>"),
    *("<search>", "</search>", "<information>", "</information>", "<answer>", "</answer>"),
    *("\\boxed{", "}", "\\boxed", "the correct answer is:", "The Correct Answer is: A", " A"),
    *("<|im_end|>", "<|user|>", "<s>", "</s>", "[INST]", "[/INST]", "<|", "|>", "<", "["),
    *("\nuser", "\nassistant:", "human ", "\nsystem\n", "\n", " ", "\t", "w " * 11, "w " * 21),
    *("<search> who </search>", "<answer> Paris </answer>", "\\boxed{Paris}", "巴", "“é”", ": "),
]
TURNS = st.lists(
    st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=9).map("".join), max_size=6
)


def slow_violations(turns, question, retrieval, answer, markup, num_searches, min_searches):
    """Every rule in its own passes, one turn at a time."""
    texts = [stripped(turn, markup.markers) for turn in turns]

    def number(marker):
        return [len(re.findall(re.escape(marker), text)) for text in texts]

    opened, closed = number(markup.search.open), number(markup.search.close)
    foreign = [t for text in texts for t in re.findall(CHAT, text) if t not in markup.markers]
    role_lines = [
        line
        for text in texts
        for line in text.split("\n")
        if re.fullmatch(r"(system|user|assistant|human)[ \t]*:?[ \t]*", line)
    ]
    words = 0 if answer is None else len(answer.split())
    allowed = max(10, *(len(gold.split()) for gold in question.answers))
    facts = {
        "not_one_answer": answer is None or answer_marks(texts, markup, question.task) != 1,
        "unbalanced_search": opened != closed,
        "too_many_searches": sum(opened) > 4,
        "forged_documents": sum(number(markup.documents.open) + number(markup.documents.close)) > 0,
        "long_query": sum(
            len(query.split()) > 20 for text in texts for query in queries(text, markup.search)
        ),
        "chat_tokens": bool(foreign or role_lines),
        "chinese": any(
            0x3400 <= ord(c) <= 0x4DBF
            or 0x4E00 <= ord(c) <= 0x9FFF
            or 0xF900 <= ord(c) <= 0xFAFF
            or 0x20000 <= ord(c) <= 0x3FFFF
            for text in texts
            for c in text
        ),
        "long_answer": answer is not None
        and (words != 1 if question.task == "choice" else words > allowed),
        "marker_in_answer": answer is not None and any(m in answer for m in markup.markers),
        "search_when_off": not retrieval and sum(opened + closed) > 0,
        "too_few_searches": retrieval and num_searches < min_searches,
    }
    return tuple(name for name, count in facts.items() for _ in range(count))


def stripped(turn, markers):
    """The turn without the chat token, of no marker's kind, that ended it."""
    turn = turn.rstrip()
    tokens = [t for t in re.findall(CHAT, turn) if turn.endswith(t) and t not in markers]
    return turn[: -len(tokens[-1])] if tokens else turn


def queries(text, search):
    """What stands before each closing marker, back to the opening one or the last closing one."""
    before_closings = text.split(search.close)[:-1]
    return [part.split(search.open)[-1] for part in before_closings if search.open in part]


def answer_marks(texts, markup, task):
    form = markup.answer_form(task)
    text = "\n".join(texts)
    if form.form == "phrase":
        return len(re.findall(re.escape(form.open), text, re.IGNORECASE))
    if form.form == "boxed":
        return len(re.findall(r"\\boxed", text))
    return sum(
        max(len(re.findall(re.escape(m), text)) for m in (form.open, form.close)) for text in texts
    )


@pytest.mark.parametrize("name", ["atlas", "ur2"])
@given(
    turns=TURNS,
    task=st.sampled_from(["qa", "math", "choice"]),
    retrieval=st.booleans(),
    min_searches=st.sampled_from([0, 1, 3]),
)
def test_verdicts_are_those_of_the_slow_reading(
    request, make_question, make_trajectory, name, turns, task, retrieval, min_searches
):
    markup = request.getfixturevalue(name)
    question = make_question(task)
    trajectory = make_trajectory(*turns, documents="<search> 巴 <|user|> \\boxed{x}")
    answer = markup.answer(turns[-1], task) if turns else None
    found = violations(
        trajectory,
        question,
        retrieval=retrieval,
        answer=answer,
        markup=markup,
        min_searches=min_searches,
    )
    assert found == slow_violations(
        turns, question, retrieval, answer, markup, max(0, len(turns) - 1), min_searches
    )

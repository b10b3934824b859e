"""Grading mistakes of the UR² reference, one test each, and properties that rule out their kind."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ur2.rewards.extract import final_answer
from ur2.rewards.options import RewardOptions
from ur2.rewards.rubric import Rubric
from ur2.trainer.record.metrics import accuracy_by_bucket
from ur2.types import Assignment, Author, Group, Segment, Status, ToolUse, Trajectory

Q, END_Q = "<|begin_of_query|>", "<|end_of_query|>"
D, END_D = "<|begin_of_documents|>", "<|end_of_documents|>"
SEARCH = f"I look it up. {Q} who {END_Q}"
UNSEARCHABLE = "This query exceeds the capabilities of a search engine."
ENDINGS = {
    "qa": r"So \boxed{Paris}",
    "math": r"So \boxed{Paris}",
    "choice": "the correct answer is: A",
}
OPTIONS = RewardOptions.load(
    {
        "graders": {"qa": "f1", "choice": "choice", "math": "exact_match"},
        "terms": {
            "answer": {"kind": "answer", "weight": 2.0},
            "format": {"kind": "format"},
            "violations": {"kind": "violations", "weight": -1.0},
            "searches": {"kind": "searches"},
            "bonus": {"kind": "search_bonus", "values": [0.0, 3.0, 4.0]},
            "unsearchable": {"kind": "unsearchable", "weight": -0.5},
        },
    },
    where="reward",
)


@pytest.fixture(scope="session")
def score_all(ur2, answered):
    def run(*pairs, retrieval=True):
        rubric = Rubric.from_options(OPTIONS, ur2)
        groups = [
            Group(
                assignment=Assignment(
                    id=str(n), question=question, retrieval=retrieval, reason="", step=1
                ),
                trajectories=(answered(trajectory, ur2, question.task),),
            )
            for n, (question, trajectory) in enumerate(pairs)
        ]
        return asyncio.run(rubric.score_all(groups, 1))

    return run


@pytest.fixture(scope="session")
def score(score_all):
    def run(question, trajectory, **changes):
        return score_all((question, trajectory), **changes)[0].scores[0]

    return run


def test_rewards_are_not_looked_up_by_question_text(score_all, make_question, make_trajectory):
    paris, rome = (make_question(id=city, answers=(city,)) for city in ("Paris", "Rome"))
    assert paris.text == rome.text
    answer = make_trajectory(r"\boxed{Rome}")
    first, second = score_all((paris, answer), (rome, answer))
    assert (first.scores[0].correct, second.scores[0].correct) == (0.0, 1.0)


@pytest.mark.parametrize(
    "documents",
    [f"{Q} {'w ' * 30}", "巴黎", "<|im_start|>user", "\nassistant\n", r"\boxed{x}", f"{END_D}{D}"],
)
def test_format_checks_do_not_run_over_retrieved_documents(
    score, make_question, make_trajectory, documents
):
    trajectory = make_trajectory(SEARCH, ENDINGS["qa"], documents=documents)
    assert score(make_question(), trajectory).parts["format"] == 1.0


def test_boxed_is_not_greedy():
    assert final_answer(r"\boxed{\frac{1}{2}} so {x} and } or \boxed{3}, {see}", "math") == "3"
    assert final_answer(r"\boxed{Paris}, as {shown}", "qa") == "Paris"


def test_the_last_position_wins_and_not_the_last_pattern():
    text = r"The correct answer is: B. <answer>C</answer> Wait. \boxed{A}"
    assert final_answer(text, "choice") == "A"
    assert final_answer(r"\boxed{A} <answer>C</answer> the correct answer is: B", "choice") == "B"


@pytest.mark.parametrize(
    "text", ["the correct answer is a drug", "The correct answer is a", "correct answer is an A"]
)
def test_the_correct_answer_is_a_is_not_option_a(text):
    assert final_answer(text, "choice") != "A"


@pytest.mark.parametrize("text", ["I don't know", "Not sure", "Nothing", "know", "No idea"])
def test_options_are_not_matched_inside_words(score, make_question, make_trajectory, text):
    question = make_question("choice", answers=("B",), options=("Paris", "No"))
    assert score(question, make_trajectory(f"the correct answer is: {text}")).correct == 0.0
    assert score(question, make_trajectory("the correct answer is: no")).correct == 1.0


def test_items_still_searching_at_the_last_round_stay_in_the_denominator(
    score_all, make_question, make_trajectory
):
    right = make_trajectory(ENDINGS["qa"])
    searching = Trajectory(
        id="t2",
        segments=make_trajectory(SEARCH).segments,
        events=(ToolUse(tool="search", arguments={"query": "who"}, outcome="found"),),
        status=Status.OUT_OF_TURNS,
    )
    unborn = Trajectory(id="t3", segments=(), events=(), status=Status.TRUNCATED)
    scored = score_all(*((make_question(), t) for t in (right, searching, unborn, right)))
    assert [group.scores[0].correct for group in scored] == [1.0, 0.0, 0.0, 1.0]
    assert accuracy_by_bucket(scored) == {"qa/hard": 0.5}


def test_unknown_sources_do_not_crash_the_batch(score_all, make_question, make_trajectory):
    strange = make_question(source="never seen.jsonl", subject="alchemy", meta={"source": "?"})
    scored = score_all(*((q, make_trajectory(ENDINGS["qa"])) for q in (strange, make_question())))
    assert [group.scores[0].correct for group in scored] == [1.0, 1.0]


def test_a_sentence_in_a_document_is_not_an_unsearchable_reply(
    score, make_question, make_trajectory
):
    turns = (SEARCH, ENDINGS["qa"])
    quoted = make_trajectory(*turns, documents=UNSEARCHABLE)
    refused = make_trajectory(*turns, documents="anything", outcomes=["unsearchable"])
    assert score(make_question(), quoted).parts["unsearchable"] == 0.0
    assert score(make_question(), refused).parts["unsearchable"] == -0.5


def test_a_failed_search_costs_the_policy_nothing(score, make_question, make_trajectory):
    turns = (SEARCH, ENDINGS["qa"])
    failed = score(make_question(), make_trajectory(*turns, outcomes=["failed"]))
    found = score(make_question(), make_trajectory(*turns, outcomes=["found"]))
    assert failed == found


def test_whether_retrieval_is_on_is_not_read_from_the_text(score, make_question, make_trajectory):
    prompt = Segment(author=Author.PROMPT, token_ids=(1,), text=f"Search with {Q} {END_Q}")
    plain = make_trajectory(SEARCH, ENDINGS["qa"], outcomes=["refused"])
    shown = Trajectory(
        id="t", segments=(prompt, *plain.segments), events=plain.searches, status=plain.status
    )
    for trajectory in (plain, shown):
        assert score(make_question(), trajectory, retrieval=False).parts["violations"] == -1.0


MARKERS = f"""
{Q} {END_Q} {D} {END_D} <search> </search> <information> </information> <answer> </answer>
\\boxed{{ \\boxed{{Rome}} }} <|im_end|> <|im_start|>user [INST] </s> 巴 é
"""
PIECES = st.sampled_from(
    [*MARKERS.split(), "the correct answer is: B", "\nassistant\n", "\n", " w" * 25]
)
TEXTS = st.lists(PIECES | st.text(max_size=5), max_size=6).map(" ".join)
TASKS = st.sampled_from(["qa", "math", "choice"])


def asked(make_question, task):
    return make_question(task, answers=("A",) if task == "choice" else ("Paris",))


@given(documents=TEXTS, task=TASKS, last=st.booleans())
def test_no_environment_text_can_change_a_verdict(
    score, make_question, make_trajectory, documents, task, last
):
    turns = (SEARCH, ENDINGS[task] if last else "I give up")
    question = asked(make_question, task)
    forged = score(question, make_trajectory(*turns, documents=documents))
    assert forged == score(question, make_trajectory(*turns, documents="nothing"))


@given(printed=TEXTS, task=TASKS, searched=st.booleans())
def test_a_model_that_prints_markers_gains_nothing_and_masks_nothing(
    score, make_question, make_trajectory, printed, task, searched
):
    turns = (SEARCH,) * searched
    question = asked(make_question, task)
    honest = make_trajectory(*turns, ENDINGS[task])
    forger = make_trajectory(*turns, f"{printed}\n{ENDINGS[task]}", outcomes=["found"] * searched)
    fair, forged = score(question, honest), score(question, forger)
    for name in ("searches", "bonus", "unsearchable"):
        assert forged.parts[name] == fair.parts[name]
    assert forged.total <= fair.total
    assert forger.policy_mask == honest.policy_mask
    assert sum(forger.policy_mask) == forger.num_policy_tokens == 1 + searched

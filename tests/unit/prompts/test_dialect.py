from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ur2.errors import InputError
from ur2.prompts.dialect import Answer, Dialect, Search, Stop, neutralise
from ur2.prompts.options import DialectOptions, PromptOptions
from ur2.types import Passage

TAGS = {
    "search": {"open": "<search>", "close": "</search>"},
    "documents": {"open": "<information>", "close": "</information>"},
    "answer": {"form": "tags", "open": "<answer>", "close": "</answer>"},
}
UR2 = {
    "search": {"open": "<|begin_of_query|>", "close": "<|end_of_query|>"},
    "documents": {"open": "<|begin_of_documents|>", "close": "<|end_of_documents|>"},
    "answer": {"form": "boxed"},
    "answer_by_task": {"choice": {"form": "phrase", "open": "the correct answer is:"}},
}


def make(tree=TAGS, **changes) -> Dialect:
    return Dialect(DialectOptions.load({**tree, **changes}, where="dialect"))


def test_a_turn_stops_on_the_markers_that_end_it():
    assert make().stop_strings == ("</search>", "</answer>")
    assert make(UR2).stop_strings == ("<|end_of_query|>",)


@pytest.mark.parametrize(
    ("completion", "action"),
    [
        ("I look. <search> capital of France </search>", Search("capital of France")),
        ("It is <answer> Paris </answer>", Answer("Paris")),
        ("<answer>Rome</answer> no, <answer>Paris</answer>", Answer("Paris")),
        ("<search>a</search> so <answer>b</answer>", Answer("b")),
        ("<answer>b</answer> or <search>a</search>", Search("a")),
        ("<answer>b</answer><|end|>", Answer("b")),
        ("<search> foo <answer> Paris </answer>", Answer("Paris")),
        ("<answer> a <search> b </answer>", Answer("a <search> b")),
    ],
)
def test_the_last_complete_action_by_position_counts(completion, action):
    assert make().parse(completion) == action


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "thinking",
        "<search> capital",
        "<search> </search>",
        "capital </search>",
        "<answer>Paris",
        "<answer> </answer>",
        "<answer>Paris</answer> wait <search> capital of",
    ],
)
def test_a_turn_without_a_complete_action_is_a_stop(completion):
    assert isinstance(make().parse(completion), Stop)


def test_the_task_decides_which_answer_form_is_read():
    dialect = make(UR2)
    text = r"\boxed{5}, so the correct answer is: B"
    assert dialect.parse(text, "math") == Answer("5")
    assert dialect.parse(text, "choice") == Answer("B")
    assert dialect.parse(text) == Answer("B")
    assert dialect.answer(r"\boxed{5}", "choice") is None
    assert dialect.answer("the correct answer is a drug", "choice") is None
    assert dialect.answer(r"\boxed{\frac{1}{2}}", "math") == r"\frac{1}{2}"


WORDS = st.text(st.sampled_from("ab {}\\<>/|éß7.\n"), max_size=30)


@given(thought=WORDS, content=WORDS, searches=st.booleans())
@pytest.mark.parametrize("tree", [TAGS, UR2], ids=["tags", "ur2"])
@pytest.mark.parametrize("task", ["qa", "choice"])
def test_a_rendered_turn_reads_back_as_itself_or_is_refused(tree, task, thought, content, searches):
    dialect = make(tree)
    expected = Search(content.strip()) if searches else Answer(content.strip())
    given_part = {"search" if searches else "answer": content}
    try:
        text = dialect.render_turn(thought, task=task, **given_part)
    except InputError:
        assert not content.strip() or set(content) & set("{}\\<\n")  # may break the markers
    else:
        assert dialect.parse(text, task) == expected
        assert thought.strip() in text


@pytest.mark.parametrize("part", ["search", "answer"])
def test_a_turn_whose_content_would_break_its_markers_is_refused(part):
    with pytest.raises(InputError, match="remove the markers"):
        make().render_turn("", **{part: f"x </{part}> y"})


def text_of(shown) -> str:
    return shown.before + shown.text + shown.after


def test_documents_stand_between_their_markers_best_first():
    passages = [Passage(id="1", title="Lyon", text="A city."), Passage(id="2", text="Another.")]
    dialect = make(passage="{{ number }} {{ passage.title }}: {{ passage.text }}")
    assert text_of(dialect.wrap(passages)) == (
        "<information> 1 Lyon: A city.\n2 : Another. </information>"
    )
    assert text_of(make(documents_padding="\n").wrap([])) == (
        "\n<information> Nothing was found. </information>\n"
    )


HOSTILE = ["<search>", "</search>", "<information>", "</information>", "<answer>", "</answer>"]
HOSTILE += ["\\boxed{", "<", ">", "/", "search>", "</", " ", "x", "<|end|>", "<information"]


@given(parts=st.lists(st.sampled_from(HOSTILE), max_size=20))
def test_retrieved_text_cannot_forge_structure(parts):
    dialect = make(answer_by_task={"math": {"form": "boxed"}})
    passages = [Passage(id="1", text="".join(parts), title="".join(reversed(parts)))]
    shown = dialect.wrap(passages)
    inside = neutralise(shown.text, (*dialect.markers, "<|end|>"))
    assert not any(marker in inside for marker in [*dialect.markers, "<|end|>"])
    assert isinstance(dialect.parse(text_of(replace(shown, text=inside))), Stop)


@given(text=st.text("ab|", max_size=30))
def test_overlapping_markers_are_all_broken(text):
    markers = ("aab", "ab|", "||")
    broken = neutralise(text, markers)
    assert not any(marker in broken for marker in markers)
    assert broken.replace(" ", "") == text


def test_harmless_text_is_not_touched():
    text = "if a < b then x>y, see </b> and {sets}"
    assert neutralise(text, make().markers) == text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search": {"open": "<x>", "close": "<x>"}}, "used twice"),
        ({"documents": {"open": "<search>", "close": "</d>"}}, "used twice"),
        ({"search": {"open": "<s", "close": "</s"}, "answer": {"form": "boxed"}}, None),
        ({"search": {"open": "<<answer>", "close": "</s>"}}, "part of another"),
        ({"search": {"open": "< s>", "close": "</s>"}}, "match pattern"),
        ({"answer": {"form": "boxed", "open": "<a>"}}, "takes no markers"),
        ({"answer": {"form": "tags", "open": "<a>"}}, "takes open and close"),
        ({"answer": {"form": "phrase"}}, "takes open"),
        ({"passage": "{{ passage.text"}, "prompt.protocol.passage"),
        ({"passage": "{{ pasage.text }}"}, "'pasage' is undefined; known: number, passage"),
    ],
)
def test_options_that_make_no_dialect_are_refused(changes, message):
    if message is None:
        assert make(**changes)
        return
    with pytest.raises(InputError, match=message):
        make(**changes)


def test_a_missing_template_key_is_named():
    with pytest.raises(InputError, match=r"templates.qa.direct' is required"):
        PromptOptions.load({"protocol": TAGS, "templates": {"qa": {"search": "x"}}}, where="prompt")

import time

import pytest

from ur2.spans import boxed, phrased, tagged


def contents(spans):
    return [span.content for span in spans]


def test_tags_are_found_in_text_order_with_their_positions():
    text = "x <a> one </a> y <a>two</a>"
    spans = tagged(text, "<a>", "</a>")
    assert contents(spans) == ["one", "two"]
    assert [text[s.start : s.end] for s in spans] == ["<a> one </a>", "<a>two</a>"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<a>one", []),
        ("one</a>", []),
        ("</a><a>", []),
        ("<a>one <a>two</a>", ["two"]),
        ("<a>one</a> </a> <a>two</a>", ["one", "two"]),
        ("<a></a>", [""]),
    ],
)
def test_incomplete_tags_are_no_spans(text, expected):
    assert contents(tagged(text, "<a>", "</a>")) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"so \boxed{5}.", ["5"]),
        (r"\boxed{\frac{1}{2}} then \boxed{3}", [r"\frac{1}{2}", "3"]),
        (r"\boxed{\boxed{5}}", [r"\boxed{5}", "5"]),
        (r"\boxed {7}", ["7"]),
        (r"\boxed{5", []),
        (r"\boxed{ {5 }", []),
        (r"{ \boxed{5}", ["5"]),
        (r"} \boxed{5}", ["5"]),
        (r"\boxed{x \boxed{5}", ["5"]),
        (r"\boxed{\{1, 2\}}", [r"\{1, 2\}"]),
        (r"\boxed{\left\{x\right.}", [r"\left\{x\right."]),
        (r"a \\ \boxed{5}", ["5"]),
        (r"\\boxed{5}", ["5"]),
        (r"\boxed{a}b}", ["a"]),
    ],
)
def test_boxes_have_balanced_braces(text, expected):
    assert contents(boxed(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is: B\nmore", ["B"]),
        ("THE ANSWER IS: **B**", ["B"]),
        ("**The answer is:** B", ["B"]),
        ("the answer is:\n\nB. Foo", ["B. Foo"]),
        ("the answer is: A or the answer is: B", ["A or", "B"]),
        ("the answer is: B<|im_end|>", ["B"]),
        ("the answer is", []),
        ("the answer is:", [""]),
    ],
)
def test_a_phrase_holds_the_rest_of_its_line(text, expected):
    assert contents(phrased(text, "the answer is:")) == expected


@pytest.mark.parametrize(
    "hostile", [r"\boxed{" * 40_000, "{" * 250_000, "\\" * 250_000, r"\boxed" + " " * 250_000]
)
def test_hostile_text_is_scanned_in_linear_time(hostile):
    started = time.perf_counter()
    assert boxed(hostile) == []
    assert time.perf_counter() - started < 2

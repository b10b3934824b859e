import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ur2.prompts.tool_calls import BadCall, ToolCall, parse_calls

GOOD = '<tool_call>\n{"name": "search", "arguments": {"query": "x"}}\n</tool_call>'
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    st.lists(st.sampled_from(["<tool_call>", "</tool_call>", '{"name":', '"a"', "}", "{", ":", "[",
                              "<think>", "</think>", "<|python_tag|>", "NaN", "1e999", ";", "\\",
                              '"\\ud800"', '"parameters":', '"arguments":', " ", "9" * 5000]))
    | st.lists(st.text()),
    st.sampled_from(["hermes", "llama"]),
)  # fmt: skip
def test_reading_never_raises(parts, form):
    for text in ("".join(parts), "<tool_call>" + "".join(parts)):
        for call in parse_calls(text, form):
            assert isinstance(call, ToolCall | BadCall)
            if isinstance(call, ToolCall):
                json.dumps(dict(call.arguments), allow_nan=False, ensure_ascii=False).encode()


@given(st.lists(st.dictionaries(st.text("abc", min_size=1), JSON, max_size=3), max_size=3))
def test_several_calls_are_read_as_they_are_written(arguments):
    written = [{"name": f"t{n}", "arguments": given} for n, given in enumerate(arguments)]
    text = "".join(f"say <tool_call>\n{json.dumps(call)}\n</tool_call>\n" for call in written)
    expected = tuple(ToolCall(f"t{n}", given) for n, given in enumerate(arguments))
    assert parse_calls(text, "hermes") == expected
    several = "; ".join(
        json.dumps({"name": f"t{n}", "parameters": given}) for n, given in enumerate(arguments)
    )
    assert parse_calls(f"{several}<|eom_id|>", "llama") == expected
    assert parse_calls(f"<|python_tag|>{several}<|eom_id|>", "llama") == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<tool_call>x</tool_call>", "no valid JSON"),
        ("<tool_call>", "not closed"),
        ('<tool_call>{"name": "a"}', "not closed"),
        ("<tool_call>[]</tool_call>", "no JSON object"),
        ('<tool_call>{"arguments": {}}</tool_call>', 'no "name"'),
        ('<tool_call>{"name": "a", "arguments": [1]}</tool_call>', "no JSON object"),
        ('<tool_call>{"name": "a"} {"name": "b"}</tool_call>', "more than one"),
        ('<tool_call>{"name": "a", "arguments": {"x": NaN}}</tool_call>', "no valid JSON"),
        ('<tool_call>{"name": "a", "arguments": {"x": 1e999}}</tool_call>', "JSON does not have"),
        ('<tool_call>{"name": "a", "arguments": {"x": "\\ud800"}}</tool_call>', "does not have"),
        ("<tool_call>" + "[" * 100_000 + "</tool_call>", "no valid JSON"),
        ('<tool_call>{"name": "a", "arguments": ' + '{"a":' * 100_000 + "</tool_call>", "JSON"),
    ],
)
def test_bad_calls_say_why(text, reason):
    (call,) = parse_calls(text, "hermes")
    assert isinstance(call, BadCall)
    assert reason in call.reason


def test_a_bad_call_does_not_hide_the_next_one():
    bad, good = parse_calls(f"<tool_call>{{bad</tool_call>{GOOD}", "hermes")
    assert isinstance(bad, BadCall)
    assert good == ToolCall("search", {"query": "x"})


def test_an_argument_may_hold_the_closing_tag():
    written = json.dumps({"name": "say", "arguments": {"text": "a</tool_call>b"}})
    text = f"<tool_call>{written}</tool_call>"
    assert parse_calls(text, "hermes") == (ToolCall("say", {"text": "a</tool_call>b"}),)


@pytest.mark.parametrize(
    ("text", "num_calls"),
    [
        (f"<think>maybe {GOOD}</think>{GOOD}", 1),
        (f"maybe {GOOD}</think>{GOOD}", 1),  # the template wrote the opening tag
        (f"<think>maybe {GOOD}", 0),
        (f"<think>a</think>{GOOD}{GOOD}<|im_end|>", 2),
        ("no call", 0),
    ],
)
def test_thoughts_do_not_act(text, num_calls):
    assert len(parse_calls(text, "hermes")) == num_calls


def test_llama_answers_in_json_or_words_are_no_calls():
    assert parse_calls("The answer is Rome.<|eot_id|>", "llama") == ()
    assert parse_calls('{"answer": "Rome"}', "llama") == ()
    (call,) = parse_calls('{"type": "function", "name": "a", "parameters": {}}<|eot_id|>', "llama")
    assert call == ToolCall("a", {})

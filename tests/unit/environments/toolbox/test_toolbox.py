import asyncio
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ur2.environments.base import Services, Turn
from ur2.environments.toolbox.base import check_schema, misfit
from ur2.environments.toolbox.box import Toolbox
from ur2.environments.toolbox.browse import BrowseTool
from ur2.environments.toolbox.calculate import CalculateTool, calculate
from ur2.environments.toolbox.options import PythonToolOptions, ToolboxOptions
from ur2.environments.toolbox.python_callable import PythonTool
from ur2.environments.toolbox.search import SearchTool
from ur2.errors import InputError
from ur2.prompts.tool_calls import ToolSchema
from ur2.prompts.wording import Wording
from ur2.retrieval.reading.knowledge import RoutedKnowledge
from ur2.retrieval.web.browse import PagePart
from ur2.testing import ScriptedRetriever, make_question
from ur2.testing.players import PROMPT
from ur2.types import RetrievalFailed, ToolUse


def greet(name: str, times: int = 1) -> str:
    """Greets someone.

    This is not for the policy.
    """
    return f"Hello {name}. " * times


async def wait(seconds: float) -> None:
    await asyncio.sleep(seconds)


def block(seconds: float) -> None:
    time.sleep(seconds)


def boom() -> str:
    raise RuntimeError("no luck")


def untyped(x) -> str:
    return str(x)


def odd(x: Toolbox) -> str:
    return str(x)


def everything(x: str) -> object:
    return object()


def tool(function, **fields) -> PythonTool:
    path = f"{__name__}:{function.__name__}"
    return PythonTool(function.__name__, PythonToolOptions(function=path, **fields))


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", "7"),
        ("2^10", "1024"),
        ("0.1 + 0.2", "0.3"),
        ("sqrt(16)", "4"),
        ("factorial(5) // 7", "17"),
        ("10**21", "1" + "0" * 21),
        ("7 / 2", "3.5"),
        ("max(1, 2) - pi * 0", "2"),
        ("1 < 2", "True"),
    ],
)
def test_arithmetic(expression, value):
    assert calculate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "", "1 +", "1/0", "9**9**9**9", "2**100000", "(-1)**0.5 * 'a'", "'a' * 10**9", "[1] * 9**9",
        "__import__('os').system('true')", "().__class__", "open('x')", "x", "factorial(10**9)",
        "comb(10**9, 10**8)", "1" * 501, "(" * 400, "-" * 499 + "1", "lambda: 1", "1 << 10**9",
        "round.__self__", "10.0**400", "print(1)", "f'{1}'", "None", "9" * 400 + "**9",
    ],
)  # fmt: skip
def test_what_is_no_arithmetic_is_refused_at_once(expression):
    start_s = time.perf_counter()
    with pytest.raises(ValueError, match=r"\w"):
        calculate(expression)
    assert time.perf_counter() - start_s < 1


@settings(deadline=1000)
@given(st.text("0123456789+-*/%^(). epilogsqrtfactorial,'[]", max_size=60))
def test_no_expression_breaks_the_calculator(expression):
    use = asyncio.run(CalculateTool().use({"expression": expression}, ""))
    assert use.outcome in ("found", "invalid")


async def test_a_function_is_told_and_called_by_its_signature():
    made = tool(greet)
    assert made.schema.description == "Greets someone."
    check_schema(made.schema, where="test")
    assert misfit(made.schema, {"name": "Ann", "times": 2}) is None
    assert misfit(made.schema, {"times": 2})
    assert misfit(made.schema, {"name": "Ann", "more": 1})
    assert (await made.use({"name": "Ann", "times": 2}, "")).facts == "Hello Ann. Hello Ann. "
    assert (await made.use({"name": 1}, "")).outcome == "invalid"


async def test_functions_that_fail_or_take_long_are_failures():
    assert "no luck" in (await tool(boom).use({}, "")).facts
    for function in (wait, block):
        use = await tool(function, timeout_s=0.1).use({"seconds": 1.0}, "")
        assert (use.outcome, use.latency_s < 0.8) == ("failed", True)
    assert (await tool(everything).use({"x": ""}, "")).outcome == "failed"  # no JSON


async def test_plain_functions_run_at_once_and_within_bounds():
    made = tool(block, max_concurrency=3)
    start_s = time.perf_counter()
    uses = await asyncio.gather(*(made.use({"seconds": 0.5}, "") for _ in range(4)))
    assert time.perf_counter() - start_s < 1.4
    assert [use.outcome for use in uses] == ["found"] * 3 + ["failed"]
    assert (await made.use({"seconds": 0.0}, "")).outcome == "found"


async def test_long_replies_are_cut():
    use = await tool(greet, max_reply_chars=10).use({"name": "Ann", "times": 10**6}, "")
    assert use.facts == "Hello Ann.\n[cut: 10 of 11000000 characters]"


@pytest.mark.parametrize(
    ("function", "reason"), [(untyped, "'x' has no type"), (odd, "no JSON form|cannot be read")]
)
def test_functions_that_no_policy_could_call_are_refused(function, reason):
    with pytest.raises(InputError, match=reason):
        tool(function)


SERVICES = Services(
    knowledge=RoutedKnowledge(retriever=ScriptedRetriever(), top_k=1), wording=Wording(PROMPT)
)


async def test_search_finds_passages():
    turn = Turn(text="", number=1)
    use = await SearchTool().for_turn(turn, make_question(), SERVICES).use({"query": "x"}, "")
    assert (use.tool, use.query, use.outcome, use.ids) == ("search", "x", "found", ("p1",))
    assert use.facts == "Paris."


class Pages:
    async def read(self, url, searches, *, number=1):
        if url == "https://gone":
            return RetrievalFailed(reason="gone")
        return PagePart(url=url, title="T", text="text", number=number, num_parts=3)


async def test_only_pages_that_a_search_found_are_read():
    found = ToolUse(tool="search", arguments={}, outcome="found", ids=("https://a", "https://gone"))
    turn = Turn(text="", number=2, events=(found,))
    browse = BrowseTool(Pages()).for_turn(turn, make_question(), SERVICES)
    use = await browse.use({"url": "https://a", "part": 2}, "")
    assert (use.facts, use.ids) == ("T\nPart 2 of 3\ntext", ("https://a",))
    assert (await browse.use({"url": "https://b"}, "")).outcome == "invalid"
    assert (await browse.use({"url": "https://gone"}, "")).outcome == "failed"


def test_a_name_is_used_once():
    path = f"{__name__}:greet"
    tools = ToolboxOptions(calculate=True, python={"calculate": PythonToolOptions(function=path)})
    with pytest.raises(InputError, match="two tools are named 'calculate'"):
        Toolbox(tools)


@pytest.mark.parametrize(
    ("name", "parameters", "reason"),
    [
        ("a b", {"type": "object"}, "no name of a tool"),
        ("a", {"type": "array"}, "not an object"),
        ("a", {}, "not an object"),
        ("a", {"type": "object", "properties": 3}, "no JSON schema"),
        ("a", {"type": "object", "$ref": "http://127.0.0.1:9/schema"}, "no JSON schema"),
    ],
)
def test_schemas_that_are_none_are_refused(name, parameters, reason):
    with pytest.raises(InputError, match=reason):
        check_schema(ToolSchema(name=name, description="", parameters=parameters), where="test")

"""Arithmetic that cannot run code, nor take long."""

import ast
import math
from collections.abc import Callable, Mapping
from typing import Any

import simpleeval
from pydantic import JsonValue

from ur2.environments.toolbox.base import Said, object_schema, used
from ur2.prompts.tool_calls import ToolSchema
from ur2.types import ToolUse

MAX_CHARS = 500
MAX_BITS = 2048
MAX_FACTORIAL = 300


class CalculateTool:
    """A calculator."""

    schema = ToolSchema(
        name="calculate",
        description=(
            "Computes an arithmetic expression, such as (3 + 4) * 2 ** 5 / sqrt(2). Knows + - * / "
            "// % **, pi, e, abs, round, min, max, sqrt, exp, log, log10, sin, cos, tan, floor, "
            "ceil, gcd, comb and factorial."
        ),
        parameters=object_schema(
            {"expression": {"type": "string", "description": "What to compute."}}, ["expression"]
        ),
    )

    async def use(self, arguments: Mapping[str, JsonValue], transcript: str) -> ToolUse:
        """Computes; what cannot be computed is `invalid`."""

        async def call() -> Said:
            try:
                return Said(text=calculate(str(arguments["expression"])))
            except ValueError as error:
                return Said(text=str(error), outcome="invalid")

        return await used(self.schema.name, arguments, call)


def calculate(expression: str) -> str:
    """The value of an expression; `^` is a power.

    Raises:
        ValueError: it has none, or is too long or too large.
    """
    if len(expression) > MAX_CHARS:
        raise ValueError(f"the expression has more than {MAX_CHARS} characters")
    evaluator = simpleeval.SimpleEval(operators=_OPERATORS, functions=_FUNCTIONS, names=_NAMES)
    try:
        value = evaluator.eval(expression.replace("^", "**").strip())
        return _written(value)
    except RecursionError as error:
        raise ValueError("the expression is nested too deeply") from error
    except Exception as error:  # the library raises many kinds, and so does Python's parser
        raise ValueError(f"cannot be computed: {error}"[:200]) from error


def _written(value: object) -> str:
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.15g}"
    raise ValueError(f"the result is no number but {type(value).__name__}")


def _power(base: Any, exponent: Any) -> Any:
    _check_numbers(base, exponent)
    if abs(exponent) * math.log2(max(abs(base), 2)) > MAX_BITS:
        raise ValueError("the number is too large")
    return base**exponent


def _times(left: Any, right: Any) -> Any:
    _check_numbers(left, right)  # a text times a number is a long text
    return left * right


def _factorial(number: int) -> int:
    if not 0 <= number <= MAX_FACTORIAL:
        raise ValueError(f"factorial takes 0 to {MAX_FACTORIAL}")
    return math.factorial(number)


def _comb(total: int, chosen: int) -> int:
    if max(total, chosen) > MAX_BITS:
        raise ValueError(f"comb takes numbers up to {MAX_BITS}")
    return math.comb(total, chosen)


def _check_numbers(*values: object) -> None:
    if not all(isinstance(value, int | float) for value in values):
        raise ValueError("only numbers can be computed with")


_OPERATORS: Mapping[type[ast.AST], Callable[..., Any]] = {
    operator: function
    for operator, function in simpleeval.DEFAULT_OPERATORS.items()
    if operator not in (ast.In, ast.NotIn, ast.Is, ast.IsNot, ast.LShift, ast.RShift)
} | {ast.Pow: _power, ast.Mult: _times}

_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "abs": abs,
    "ceil": math.ceil,
    "comb": _comb,
    "cos": math.cos,
    "exp": math.exp,
    "factorial": _factorial,
    "floor": math.floor,
    "gcd": math.gcd,
    "log": math.log,
    "log10": math.log10,
    "max": max,
    "min": min,
    "round": round,
    "sin": math.sin,
    "sqrt": math.sqrt,
    "tan": math.tan,
}
_NAMES: Mapping[str, float] = {"e": math.e, "pi": math.pi}

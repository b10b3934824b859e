"""Mathematical answers compared by algebra: math-verify reads them, sympy computes.

Two expressions are equal where they have the same values to 25 digits: that of a number, or those
at points drawn once for all variables (Schwartz 1980: others agree there by rare accident). Where a
decimal is among them, to the precision of a decimal. All else, such as equations and matrices, is
math-verify's to compare.
"""

import functools
from typing import Any

import sympy
from math_verify import LatexExtractionConfig, parse, verify

DIGITS = 40
EXACT_TOLERANCE = sympy.Float("1e-25", DIGITS)
DECIMAL_TOLERANCE = sympy.Float("1.01e-6", DIGITS)
POINTS = tuple(sympy.Rational(p, 9973) for p in (7321, 13597, -4129, 23011, -11057, 2903, 31259))
NUM_TRIALS = 3
CONSTANTS = {"i": sympy.I, "e": sympy.E}
"""Letters that the library takes for variables; as such they would do no harm."""


def have_one_value(prediction: str, gold: str) -> bool:
    """Whether two canonical texts have the same value."""
    said, wanted = parsed(prediction), parsed(gold)
    if not said or not wanted:
        return False
    one, other = said[0], wanted[0]
    if _is_plain(one) and _is_plain(other):
        equal = _agree(one, other)
        if equal is not None:
            return equal
    # The library's own timeouts are handled signals, which do not stop C code: they stay off.
    return bool(verify(wanted, said, timeout_seconds=None))


@functools.lru_cache(maxsize=1024)
def parsed(text: str) -> list[Any]:
    """The library's reading of a text, kept: the samples of a question share their golds."""
    found: list[Any] = parse(f"\\boxed{{{text}}}", [LatexExtractionConfig()], parsing_timeout=None)
    return found


def _is_plain(value: Any) -> bool:
    """Whether it is an expression of numbers and variables."""
    if not isinstance(value, sympy.Expr) or isinstance(value, sympy.MatrixExpr):
        return False
    return not value.has(sympy.Integral, sympy.Limit, sympy.Sum, sympy.Product, sympy.oo)


def _agree(one: sympy.Expr, other: sympy.Expr) -> bool | None:
    """Whether two expressions agree wherever they were tried; None where no value came out."""
    symbols = one.free_symbols | other.free_symbols  # of one name are several, by assumptions
    if not symbols and (difference := (one - other).doit()).is_Rational and not difference.is_Float:
        return bool(difference == 0)
    names = sorted({symbol.name for symbol in symbols} - CONSTANTS.keys())
    is_decimal = one.has(sympy.Float) or other.has(sympy.Float)
    tolerance = DECIMAL_TOLERANCE if is_decimal else EXACT_TOLERANCE
    num_tried = 0
    for trial in range(NUM_TRIALS if names else 1):
        at = {name: POINTS[(i + 2 * trial) % len(POINTS)] for i, name in enumerate(names)}
        places = {symbol: (at | CONSTANTS)[symbol.name] for symbol in symbols}
        first, second = (_value(expression, places) for expression in (one, other))
        if first is None or second is None:
            continue
        num_tried += 1
        if abs(first - second) > tolerance * max(abs(first), abs(second)):
            return False
    return True if num_tried else None


def _value(expression: sympy.Expr, places: dict[Any, Any]) -> Any:
    """The complex value at a point; None where there is none."""
    value = expression.subs(places).evalf(DIGITS, maxn=200)
    is_number = value.is_number and value.is_finite is not False and not value.has(sympy.nan)
    return value if is_number and not value.has(sympy.Function) else None

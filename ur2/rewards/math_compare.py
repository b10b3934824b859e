"""Mathematical answers compared by their shape: numbers, units, bases, sets, intervals, lists.

Verdicts have three values: equal, different, and None where only algebra can tell.

The rules:
1. Two exact numbers are equal if they are the same. Of two decimals the difference is at most 1e-10
   of the larger; of a decimal and a number that no decimal is, 1e-6.
2. A number's base belongs to it, unless the gold has none.
3. A set is no tuple and no interval; the order of tuples, the brackets and the bounds count. An
   inequality is the interval that it describes. `]` at infinity is `)` only where the gold has it.
   A list without brackets has no order, and goes with a tuple only in the tuple's order.
4. Of two units the names and powers count; a missing one goes with any.
5. A percentage is what `PercentRule` says.
6. Words are compared as words, without regard to case.
"""

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Literal

from ur2.rewards.math_shape import Shape, is_explosive, is_infinite, structure
from ur2.rewards.math_text import canonical
from ur2.rewards.math_units import compatible, split_unit

DECIMAL_TOLERANCE = Fraction(1, 10**10)
ROUNDED_TOLERANCE = Fraction(101, 10**8)
"""With a little room, so that six digits of 1/3 are 1/3."""
MAX_EXPONENT = 400
PercentRule = Literal["either", "hundredths", "number"]
"""What 25% is equal to: 0.25 or 25, as the question may ask for either; 0.25; or 25."""
Algebra = Callable[[str, str], bool]
Again = Callable[[str, str], bool | None]
"""The verdict on parts."""
_PERCENT = re.compile(
    r"(.*[^\s\\])\s*(?:\\?%|\\text\s*\{\s*percent\s*\}|\bpercent)", re.IGNORECASE | re.DOTALL
)
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_SPACE = re.compile(r"(?<![a-zA-Z0-9]) | (?![a-zA-Z0-9])")
_DIGITS = r"(?:\d+(?:,\d{3})*(?:\.\d+)?)"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s*(?:(?P<whole>\d+)?\s*\\frac\{{(?P<above>-?{_DIGITS})\}}"
    rf"\{{(?P<below>-?{_DIGITS})\}}|(?:(?P<mixed>\d+) )?(?P<over>{_DIGITS})/(?P<under>{_DIGITS})"
    rf"|(?P<plain>{_DIGITS})?(?P<power>(?:(?:\\times|\\cdot|\*)\s*)?10\s*\^\s*"
    rf"(?:\{{(?P<exponent>[-+]?\d+)\}}|(?P<digit>\d)))?)"
)
_REPEATING = re.compile(r"(-?\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{?(\d+)\}?")
_BASED = re.compile(r"([0-9A-Fa-f]+)\s*_\s*(?:\{?\s*(?:\\text\s*\{)?\s*(\d+)\s*\}?\s*\}?)")
_NAMED = re.compile(
    r"((?:[a-zA-Z]|\\(?:theta|alpha|beta|gamma|lambda|mu|phi|omega|sigma|rho|tau))"
    r"(?:_\{?\w+\}?)?(?:\([a-zA-Z]\))?)=([^=]+)",
    re.DOTALL,
)


def decide(
    said: str, wanted: str, percent: PercentRule = "either", algebra: Algebra | None = None
) -> bool | None:
    """Whether two canonical texts are equal.

    Args:
        said: the answer.
        wanted: the gold, which may write less than it means.
        percent: what a percentage equals.
        algebra: the last resort; without it the verdict may stay open.
    """
    if not said or not wanted:
        return False
    if said == wanted or _bare(said) == _bare(wanted):
        return True
    if is_explosive(said) or is_explosive(wanted):
        return False

    def again(one: str, other: str) -> bool | None:
        return decide(one, other, percent, algebra)

    unwrapped = _unwrapped(said), _unwrapped(wanted)
    if unwrapped != (said, wanted):
        return _same_words(*unwrapped) if all(map(_is_words, unwrapped)) else again(*unwrapped)
    if readings := _percentages(said, wanted, percent):
        return _any(again(*reading) for reading in readings)
    first, second = structure(said), structure(wanted)
    if first is not None or second is not None:
        equal = _shapes_agree(first or said, second or wanted, again)
        is_settled = equal is not None or (first is not None and second is not None)
    else:
        equal = _values_agree(said, wanted, again)
        is_settled = equal is not None
    if is_settled:
        return equal
    if named := _without_names(said, wanted):
        return again(*named)
    return algebra(said, wanted) if algebra else None


@functools.lru_cache(maxsize=4096)
def number(text: str) -> tuple[Fraction, bool] | None:
    """The value of a numeral or a fraction of numerals, and whether it is a decimal."""
    if repeating := _REPEATING.fullmatch(text):
        return _repeated(repeating), False
    found = _NUMBER.fullmatch(text.replace("{,}", ""))
    if found is None or not text.strip("+- "):
        return None
    part = {k: Fraction(v.replace(",", "")) for k, v in found.groupdict().items() if _numeral(k, v)}
    below = part.get("below", part.get("under", Fraction(1)))
    exponent = int(part.get("exponent", part.get("digit", 0))) if found["power"] else 0
    if not below or abs(exponent) > MAX_EXPONENT:
        return None
    if found["power"]:
        value = part.get("plain", Fraction(1)) * Fraction(10) ** exponent
    else:
        top = part.get("plain", part.get("above", part.get("over", Fraction(0))))
        value = part.get("whole", part.get("mixed", Fraction(0))) + top / below
    return (-value if found["sign"] == "-" else value), "." in text


def _repeated(decimal: re.Match[str]) -> Fraction:
    """The value of a decimal whose last digits repeat."""
    whole, once, again = str(decimal[1] or "0"), str(decimal[2]), str(decimal[3])
    scale = 10 ** len(once)
    value = Fraction(int(once or "0"), scale) + Fraction(int(again), (10 ** len(again) - 1) * scale)
    return int(whole) - value if whole.startswith("-") else int(whole) + value


def close(first: Fraction, second: Fraction) -> bool:
    """Whether two numbers, of which one at least is a decimal, are equal; see rule 1."""
    exact = _terminates(first) and _terminates(second)
    tolerance = DECIMAL_TOLERANCE if exact else ROUNDED_TOLERANCE
    return abs(first - second) <= tolerance * max(abs(first), abs(second))


def _numeral(name: str, text: str | None) -> bool:
    return text is not None and name not in ("sign", "power")


def _terminates(value: Fraction) -> bool:
    """Whether a decimal of at most 12 places is the value."""
    return 10**12 % value.denominator == 0


def _values_agree(said: str, wanted: str, again: Again) -> bool | None:
    """Rules 1, 2, 4 and 6 for values without a shape; None where they do not apply."""
    (value, unit), (gold, gold_unit) = split_unit(said), split_unit(wanted)
    if unit or gold_unit:
        return again(value, gold) if compatible(unit, gold_unit) else False
    equal = _numbers_agree(said, wanted)
    if equal is None and _is_words(said) and _is_words(wanted) and len(said + wanted) > 6:
        return _same_words(said, wanted)
    return equal


def _numbers_agree(said: str, wanted: str) -> bool | None:
    """Rules 1 and 2; None where one is no number."""
    first, second = _BASED.fullmatch(said), _BASED.fullmatch(wanted)
    if second:
        return bool(first) and _digits(first) == _digits(second)
    if first:
        return None if number(wanted) is None else _digits(first)[0] == wanted
    one, other = number(said), number(wanted)
    if one is None or other is None:
        return None
    return one[0] == other[0] or ((one[1] or other[1]) and close(one[0], other[0]))


def _digits(based: "re.Match[str] | None") -> tuple[str, str]:
    return (based[1].upper().lstrip("0"), based[2]) if based else ("", "")


def _percentages(said: str, wanted: str, rule: PercentRule) -> list[tuple[str, str]]:
    """Pairs of which one must be equal, where one is a percentage."""
    first, second = _PERCENT.fullmatch(said), _PERCENT.fullmatch(wanted)
    if first and second:
        return [(first[1], second[1])]
    pairs = []
    if rule != "hundredths":
        pairs += [(first[1] if first else said, second[1] if second else wanted)]
    if rule != "number":
        pairs += [(_hundredth(first, said), _hundredth(second, wanted))]
    return pairs if first or second else []


def _hundredth(percentage: "re.Match[str] | None", text: str) -> str:
    if percentage is None:
        return text
    value = number(percentage[1])
    if value is None:
        return rf"\frac{{{percentage[1]}}}{{100}}"
    hundredth = value[0] / 100
    return rf"\frac{{{hundredth.numerator}}}{{{hundredth.denominator}}}"


def _shapes_agree(said: "Shape | str", wanted: "Shape | str", again: Again) -> bool | None:
    """Rule 3; None where a value without a shape may stand for one."""
    if isinstance(said, str) and isinstance(wanted, str):
        return again(said, wanted)
    if isinstance(wanted, str):
        assert isinstance(said, Shape)
        return _shape_is_value(said, wanted, again)
    if isinstance(said, str):
        return _shape_is_value(wanted, said, again)
    if said.variable and wanted.variable and said.variable != wanted.variable:
        return False
    if said.kind == "brackets" and wanted.kind == "brackets":
        return _brackets_agree(said, wanted) and _in_order(said, wanted, again)
    if said.kind == wanted.kind and said.kind in ("matrix", "row"):
        return _in_order(said, wanted, again)
    if said.kind == wanted.kind or {said.kind, wanted.kind} == {"set", "list"}:
        return _in_any_order(said, wanted, again)
    if {said.kind, wanted.kind} == {"list", "brackets"}:
        brackets = said if said.kind == "brackets" else wanted
        return False if brackets.is_interval else _in_order(said, wanted, again)
    return False


def _shape_is_value(shape: Shape, value: str, again: Again) -> bool | None:
    """A set of one is its element; nothing else is a number."""
    if shape.kind == "set" and len(shape.elements) == 1:
        return _shapes_agree(shape.elements[0], value, again)
    return None if number(value) is None and not shape.is_interval else False


def _brackets_agree(said: Shape, wanted: Shape) -> bool:
    ends = (("opening", 0), ("closing", -1))
    for end, place in ends:
        one, other = getattr(said, end), getattr(wanted, end)
        gold_is_loose = other in "[]" and is_infinite(wanted.elements[place])
        if one != other and not gold_is_loose:
            return False
    return True


def _in_order(said: Shape, wanted: Shape, again: Again) -> bool | None:
    if len(said.elements) != len(wanted.elements):
        return False
    pairs = zip(said.elements, wanted.elements, strict=True)
    return _all(_shapes_agree(one, other, again) for one, other in pairs)


def _in_any_order(said: Shape, wanted: Shape, again: Again) -> bool | None:
    left = list(_distinct(wanted.elements))
    is_open = False
    elements = _distinct(said.elements)
    if len(elements) != len(left):
        return False
    for element in elements:
        verdicts = [_shapes_agree(element, other, again) for other in left]
        if True in verdicts:
            del left[verdicts.index(True)]
        elif None in verdicts:
            is_open = True
        else:
            return False
    return None if is_open else True


def _distinct(elements: Sequence["str | Shape"]) -> tuple["str | Shape", ...]:
    return tuple(dict.fromkeys(elements))


def _without_names(said: str, wanted: str) -> tuple[str, str] | None:
    """The values that `x=5` gives, where the other side does not speak of something else."""
    first, second = _NAMED.fullmatch(said), _NAMED.fullmatch(wanted)
    if first and second:
        return (canonical(first[2]), canonical(second[2])) if first[1] == second[1] else None
    if first and "=" not in wanted:
        return canonical(first[2]), wanted
    if second and "=" not in said:
        return said, canonical(second[2])
    return None


def _bare(text: str) -> str:
    """The text without commands around words, and white space only between words or numbers."""
    return _SPACE.sub("", _TEXT.sub(r"\1", text))


def _unwrapped(text: str) -> str:
    whole = _TEXT.fullmatch(text)
    return canonical(whole[1]) if whole else text


def _is_words(text: str) -> bool:
    return re.fullmatch(r"\(?[A-Za-z][A-Za-z .,'-]*\)?", text) is not None


def _same_words(first: str, second: str) -> bool:
    one, other = (re.findall(r"[a-z']+", text.lower()) for text in (first, second))
    return one == other


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    found = []
    for verdict in verdicts:
        if verdict is False:
            return False
        found.append(verdict)
    return None if None in found else True


def _any(verdicts: Iterable[bool | None]) -> bool | None:
    found = []
    for verdict in verdicts:
        if verdict:
            return True
        found.append(verdict)
    return None if None in found else False

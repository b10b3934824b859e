"""The shape of a mathematical answer: set, list, brackets, union, matrix, or a single value."""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from ur2.rewards.math_text import canonical
from ur2.rewards.math_units import split_unit

MAX_CHARS = 4096
MAX_DEPTH = 12
MAX_DIGITS = 10_000
"""A longer expression, a deeper one, or one with a power of more digits equals only itself."""
MAX_ELEMENTS = 64
_TOWER = re.compile(r"(\d+)\s*\^\s*[{(]*\s*(\d{1,9})\s*\^\s*[{(]*\s*(\d{1,9})")
_EXPLOSIVE = re.compile(
    r"(?:\^\s*(?:\{[^{}^]*|\w+\s*)){4}"  # a tower of powers
    r"|\^\s*[{(]*\s*-?\d{5,}"  # a huge power
    r"|(?<![\\a-zA-Z])[a-zA-Z]\s*[+-][^()]*\)\s*\^\s*[{(]*\s*\d{3,}"  # a large power of a sum
    r"|\d{5,}\s*!|![\s)}\]]*!"  # a huge factorial, a factorial of a factorial
    r"|\\binom\s*\{\s*\d{5,}"
)
_RELATION = re.compile(r"\\(?:le|ge)(?![a-zA-Z])|<|>")
_MEMBER = re.compile(r"([a-zA-Z]|\\[a-zA-Z]+)\s*\\in(?![a-zA-Z])\s*(.+)", re.DOTALL)
_VARIABLE = re.compile(r"(?:[a-zA-Z]|\\(?!infty)[a-zA-Z]+)(?:_\{?\w+\}?)?(?:\([a-zA-Z]\))?")
_UNION = re.compile(r"\\(?:cup|vee)(?![a-zA-Z])|\\text\s*\{\s*or\s*\}|\bor\b")
_COMMA = re.compile(r"[,;]|\\text\s*\{\s*(?:,\s*)?and\s*\}|\band\b")
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_MATRIX = re.compile(
    r"\\begin\s*\{([pbB]?matrix|array)\}(?:\{[lcr| ]+\})?(.*)\\end\s*\{\1\}", re.DOTALL
)
_REALS = re.compile(r"\\mathbb\s*\{?\s*R\s*\}?|all (?:the )?real(?: number)?s", re.IGNORECASE)
_BUILDER = re.compile(r"\\\{\s*(?:[a-zA-Z]|\\[a-z]+)\s*(?:\||:|\\mid)\s*(.+)\\\}")
_INFINITE = re.compile(r"[-+]?\\infty")
_SIGNS = re.compile(r"\\pm(?![a-zA-Z])")


@dataclass(frozen=True, slots=True)
class Shape:
    """Elements and what holds them together."""

    kind: Literal["set", "list", "brackets", "union", "matrix", "row"]
    elements: tuple["str | Shape", ...]
    opening: str = ""
    closing: str = ""
    variable: str = ""
    is_interval: bool = False
    """Brackets that can be nothing else."""


@functools.lru_cache(maxsize=4096)
def structure(text: str) -> Shape | None:
    """The shape of a canonical text; None of a single value."""
    if _REALS.fullmatch(text):
        return Shape("brackets", (r"-\infty", r"\infty"), "(", ")", is_interval=True)
    if builder := _BUILDER.fullmatch(text):
        return structure(canonical(builder[1]))
    if member := _MEMBER.fullmatch(text):
        inner = structure(canonical(member[2]))
        return None if inner is None else replace(inner, variable=member[1])
    parts = _split(text, _UNION)
    if len(parts) > 1:
        shapes = [structure(part) for part in parts]
        if all(shape is not None and shape.kind == "brackets" for shape in shapes):
            found = tuple(shape for shape in shapes if shape is not None)
            return Shape("union", found, variable=_common(s.variable for s in found))
        return Shape("list", tuple(parts))
    if relation := _relation(text):
        return relation
    if enclosed := _matrix(text) or _enclosed(text):
        return enclosed
    parts = [] if _THOUSANDS.fullmatch(split_unit(text)[0]) else _split(text, _COMMA)
    parts = [sign for part in parts or [text] for sign in _both_signs(part)]
    if 1 < len(parts) <= MAX_ELEMENTS and all(parts):
        return Shape("list", tuple(parts))
    return None


def is_infinite(element: "str | Shape") -> bool:
    """Whether an element is ∞ or −∞."""
    return isinstance(element, str) and _INFINITE.fullmatch(element) is not None


@functools.lru_cache(maxsize=4096)
def is_explosive(text: str) -> bool:
    """Whether reading the expression would take more than any answer is worth."""
    if len(text) > MAX_CHARS or _EXPLOSIVE.search(text):
        return True
    for base, middle, top in _TOWER.findall(text):
        if len(base) * max(2, int(middle)) ** min(int(top), 64) > MAX_DIGITS:
            return True
    depth = 0
    for character in text:
        depth += (character in "{([") - (character in "})]")
        if depth > MAX_DEPTH:
            return True
    return False


def _relation(text: str) -> Shape | None:
    """The interval of the values for which an inequality holds."""
    signs = [
        sign[0].replace(r"\le", "<=").replace(r"\ge", ">=") for sign in _RELATION.finditer(text)
    ]
    sides = [canonical(side) for side in _RELATION.split(text)]
    if not 1 <= len(signs) <= 2 or not all(sides):
        return None
    if len({sign[0] for sign in signs}) > 1:
        return None
    if signs[0][0] == ">":
        sides, signs = sides[::-1], signs[::-1]
    strict = [sign[1:] != "=" for sign in signs]
    if len(signs) == 2:
        low, variable, high = sides
    elif _VARIABLE.fullmatch(sides[0]):
        low, variable, high, strict = r"-\infty", sides[0], sides[1], [True, *strict]
    else:
        low, variable, high, strict = sides[0], sides[1], r"\infty", [*strict, True]
    if not _VARIABLE.fullmatch(variable):
        return None
    brackets = ("(" if strict[0] else "[", ")" if strict[1] else "]")
    return Shape("brackets", (low, high), *brackets, variable=variable, is_interval=True)


def _enclosed(text: str) -> Shape | None:
    """A set in braces, or a tuple, a list or an interval in brackets."""
    if text.startswith(r"\{") and text.endswith(r"\}"):
        inner = canonical(text[2:-2])
        if not inner:
            return None
        parts = [sign for part in _split(inner, _COMMA) for sign in _both_signs(part)]
        return Shape("set", _shaped(parts)) if all(parts) and _is_one(text, 2) else None
    if text[:1] not in "([" or text[-1:] not in ")]" or not _is_one(text, 1):
        return None
    parts = _split(text[1:-1], _COMMA)
    if not 2 <= len(parts) <= MAX_ELEMENTS or not all(parts):
        return None
    ends = (text[0], text[-1])
    is_interval = len(parts) == 2 and (
        ends in {("[", ")"), ("(", "]")} or any(map(is_infinite, parts))
    )
    return Shape("brackets", _shaped(parts), *ends, is_interval=is_interval)


def _matrix(text: str) -> Shape | None:
    """Rows of a matrix; those of a determinant, which is a number, are none."""
    found = _MATRIX.fullmatch(text)
    if found is None:
        return None
    rows = [row for row in found[2].split(r"\\") if row.strip()]
    cells = [[canonical(cell) for cell in row.split("&")] for row in rows]
    if r"\begin" in found[2] or not rows or not all(map(all, cells)):
        return None
    return Shape("matrix", tuple(Shape("row", tuple(row)) for row in cells))


def _shaped(parts: Iterable[str]) -> tuple["str | Shape", ...]:
    return tuple(structure(part) or part for part in parts)


def _is_one(text: str, width: int) -> bool:
    """Whether the brackets at both ends belong together."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character in "{([") - (character in "})]")
        if depth == 0 and place < len(text) - 1 and (place >= width or text[place] != "\\"):
            return False
    return depth == 0


def _split(text: str, at: re.Pattern[str]) -> list[str]:
    """The canonical parts of a text between separators outside of all brackets."""
    depths, depth = [], 0
    for character in text:
        depth -= character in "})]"
        depths.append(depth)
        depth += character in "{(["
    if depth or min(depths, default=0) < 0:
        return [text]
    parts, start = [], 0
    for separator in at.finditer(text):
        if depths[separator.start()] == 0:
            parts.append(text[start : separator.start()])
            start = separator.end()
    parts.append(text[start:])
    if at is _COMMA and len(parts) > 2 and not parts[-2].strip():  # "1, 2, and 3"
        del parts[-2]
    return [canonical(part) for part in parts]


def _both_signs(text: str) -> tuple[str, ...]:
    """Two values of an expression with one ±."""
    if len(_SIGNS.findall(text)) != 1 or r"\mp" in text:
        return (text,)
    before, after = (part.strip() for part in _SIGNS.split(text))
    return canonical(f"{before}+{after}" if before else after), canonical(f"{before}-{after}")


def _common(variables: Iterable[str]) -> str:
    names = {variable for variable in variables if variable}
    return names.pop() if len(names) == 1 else ""

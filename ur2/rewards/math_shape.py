"""Mathematical answers compared by their texts, without algebra: equal, different or open."""

import functools
import re

MAX_CHARS = 4096
MAX_DEPTH = 12
MAX_DIGITS = 10_000
"""A longer expression, a deeper one, or one with a power of more digits equals only itself."""

_INTEGER = re.compile(r"[+-]?\d{1,15}")
_TOWER = re.compile(r"(\d+)\s*\^\s*[{(]*\s*(\d{1,9})\s*\^\s*[{(]*\s*(\d{1,9})")
_EXPLOSIVE = re.compile(
    r"(?:\^\s*(?:\{[^{}^]*|\w+\s*)){4}"  # a tower of powers
    r"|\^\s*[{(]*\s*-?\d{5,}"  # a huge power
    r"|(?<![\\a-zA-Z])[a-zA-Z]\s*[+-][^()]*\)\s*\^\s*[{(]*\s*\d{3,}"  # a large power of a sum
    r"|\d{5,}\s*!|![\s)}\]]*!"  # a huge factorial, a factorial of a factorial
    r"|\\[dt]?binom\s*\{\s*\d{5,}"
)
_THOUSANDS = re.compile(r"\d,(?:\\!)?\d{3}(?!\d)")
_NO_NUMBER = re.compile(r"[,;=<>|]|\\(?:in|c[au]p|[lg]eq?|text|m|begin|\{|infty|to|pm|quad|,)")
_SIZES = re.compile(r"\\(?:left|right|[bB]ig+[lr]?)(?=\s*[()\[\]])")

_BEFORE = re.compile(r"(?:[\s$*]|\\[(\[]|\\approx(?![a-zA-Z])|≈)+")
_AFTER_REVERSED = re.compile(r"(?:[\s*]|\$(?!\\)|[)\]]\\|[.,;](?![.\\]|thgir\\))+")
_OPERATOR = re.compile(r"\s*([-+*/=<>])\s*")
_SCIENTIFIC = re.compile(r"([-+]?(?:\d+(?:\.\d*)?|\.\d+))[eE]\+?(-?\d+)")
_PERCENT = re.compile(
    r"(.*[^\s\\])\s*(?:\\?%|\\text\s*\{\s*percent\s*\}|\bpercent)", re.IGNORECASE | re.DOTALL
)
_WORDS = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mbox)\s*\{([^{}]*)\}")
_SPACE = re.compile(r"(?<![a-zA-Z0-9]) | (?![a-zA-Z0-9])")


def canonical(expression: str) -> str:
    """The expression alone: not the delimiters and stops around it, nor needless white space.

    Degree signs and numbers like 4.5e33 become LaTeX.
    """
    before, after = _BEFORE.match(expression), _AFTER_REVERSED.match(expression[::-1])
    end = len(expression) - (after.end() if after else 0)
    text = " ".join(expression[before.end() if before else 0 : end].split())
    text = _OPERATOR.sub(r"\1", text).replace("°", r"^\circ").replace(r"\varnothing", r"\emptyset")
    number = _SCIENTIFIC.fullmatch(text)
    return rf"{number[1]}\times 10^{{{number[2]}}}" if number else text


def known(said: str, wanted: str) -> bool | None:
    """Whether two canonical texts are equal; None where only algebra can tell."""
    if not said or not wanted:
        return False
    if said == wanted or _bare(said) == _bare(wanted):
        return True
    if _INTEGER.fullmatch(said) and _INTEGER.fullmatch(wanted):
        return int(said) == int(wanted)
    if _is_explosive(said) or _is_explosive(wanted):
        return False
    readings = percentages(said, wanted)
    if readings:
        found = [known(*reading) for reading in readings]
        return True if True in found else None if None in found else False
    pairs = elementwise(said, wanted)
    if pairs is None:
        return None
    found = [known(*pair) for pair in pairs]
    if not found or False in found:
        return False
    return None if None in found else True


def percentages(said: str, wanted: str) -> list[tuple[str, str]]:
    """Pairs to compare where one is a percentage, or both: equal is who is equal in any way.

    25% is 0.25, and also the 25 that answers "what percentage".
    """
    first, second = _PERCENT.fullmatch(said), _PERCENT.fullmatch(wanted)
    if first and second:
        return [(first[1], second[1])]
    if first:
        return [(first[1], wanted), (rf"\frac{{{first[1]}}}{{100}}", wanted)]
    if second:
        return [(said, second[1]), (said, rf"\frac{{{second[1]}}}{{100}}")]
    return []


def elementwise(said: str, wanted: str) -> list[tuple[str, str]] | None:
    """The elements of two tuples or intervals in pairs.

    An empty list where the one has another length, or is a number; None where neither is known to
    be a tuple, or their brackets differ.
    """
    first, second = _elements(said), _elements(wanted)
    if first is None or second is None:
        other = said if first is None else wanted
        is_number = (first or second) is not None and _NO_NUMBER.search(other) is None
        return [] if is_number else None
    if first[0] != second[0] or first[-1] != second[-1]:
        return None
    return list(zip(first[1:-1], second[1:-1], strict=True)) if len(first) == len(second) else []


def _bare(text: str) -> str:
    """The text without commands around words, and white space only between words or numbers."""
    return _SPACE.sub("", _WORDS.sub(r"\1", text))


@functools.lru_cache(maxsize=4096)
def _elements(text: str) -> tuple[str, ...] | None:
    """The opening bracket, two elements or more, the closing one; None of anything else."""
    text = _SIZES.sub("", text).strip()
    if text[:1] not in "([" or text[-1:] not in ")]" or _THOUSANDS.search(text):
        return None
    parts = [""]
    depth = 0
    for character in text[1:-1]:
        depth += (character in "{([") - (character in "})]")
        if depth < 0:
            return None
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    elements = tuple(canonical(part) for part in parts)
    if depth or len(elements) < 2 or not all(elements):
        return None
    return (text[0], *elements, text[-1])


@functools.lru_cache(maxsize=4096)
def _is_explosive(text: str) -> bool:
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

r"""Marked spans (tags, \boxed{...}, a phrase) in a text, found in linear time whatever it holds."""

import functools
import re
from typing import NamedTuple


class Span(NamedTuple):
    """A complete marked span; `end` is past its closing marker."""

    start: int
    end: int
    content: str
    """The text between the markers, stripped."""


_BRACES = re.compile(r"(?P<boxed>\\boxed\s*\{)|\\\\(?!boxed)|\\[{}]|(?P<open>\{)|(?P<close>\})")
_BLANK = re.compile(r"[\s*_]*")
_PHRASE_END = re.compile(r"\n|<\||</s>")
_MARKUP = " \t\r*_`$\"'"
_STOP_AFTER_MARKUP = re.compile(r"[*_`$\"'][.,;:]")


def tagged(text: str, opening: str, closing: str) -> list[Span]:
    """Every `opening ... closing`, in text order; of two openings in a row the second counts."""
    spans = []
    position = 0
    while (end := text.find(closing, position)) >= 0:
        start = text.rfind(opening, position, end)
        stop = end + len(closing)
        if start >= 0:
            spans.append(Span(start, stop, text[start + len(opening) : end].strip()))
        position = stop
    return spans


def boxed(text: str) -> list[Span]:
    r"""Every `\boxed{...}` with balanced braces, in text order; `\{` and `\}` are not braces."""
    spans = []
    stack: list[re.Match[str]] = []
    first = text.find("\\boxed")  # no token before it matters, and the scan is the slow part
    for token in _BRACES.finditer(text, first) if first >= 0 else ():
        if token.lastgroup in ("boxed", "open"):
            stack.append(token)
        elif token.lastgroup == "close" and stack:
            opening = stack.pop()
            if opening.lastgroup == "boxed":
                content = text[opening.end() : token.start()].strip()
                spans.append(Span(opening.start(), token.end(), content))
    return sorted(spans)


def phrased(text: str, phrase: str) -> list[Span]:
    """Every `phrase ...` in any case, in text order.

    The content is the rest of the line, or the next line with text; it ends before a chat token. A
    full stop that follows emphasis, as in "**B**.", is none of it.
    """
    openings = occurrences(text, phrase)
    spans = []
    for position, opening in enumerate(openings, start=1):
        limit = openings[position] if position < len(openings) else len(text)
        after = opening + len(phrase)
        blank = _BLANK.match(text, after, limit)
        start = blank.end() if blank else after
        cut = _PHRASE_END.search(text, start, limit)
        end = cut.start() if cut else limit
        content = text[start:end].strip(_MARKUP)
        if _STOP_AFTER_MARKUP.fullmatch(content[-2:]):
            content = content[:-1].strip(_MARKUP)
        spans.append(Span(opening, end, content))
    return spans


def occurrences(text: str, phrase: str) -> list[int]:
    """Where a phrase starts, in any case: looked up by its first character that has none."""
    wanted = phrase.lower()
    offset = _first_without_case(wanted)
    if offset is None:
        return [m.start() for m in re.finditer(re.escape(phrase), text, re.IGNORECASE)]
    starts = []
    earliest = 0
    position = text.find(wanted[offset])
    while position >= 0:
        start = position - offset
        if start >= earliest and text[start : start + len(phrase)].lower() == wanted:
            starts.append(start)
            earliest = start + len(phrase)
        position = text.find(wanted[offset], position + 1)
    return starts


@functools.lru_cache(maxsize=64)
def _first_without_case(phrase: str) -> int | None:
    """Where the first character is that is no letter and no white space."""
    return next((i for i, c in enumerate(phrase) if c == c.upper() and not c.isspace()), None)

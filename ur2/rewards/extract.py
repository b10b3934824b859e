r"""The final answer in free text: `<answer>` tags, `\boxed{}`, or "the correct answer is: X"."""

import re
from itertools import accumulate

from ur2.spans import Span, boxed, phrased, tagged
from ur2.types import Task

_PHRASE = "correct answer is:"
_BARE_LETTER = re.compile(
    r"(?i:correct answer is)[ \t*_`$\"'(\[]+(?:(?i:option|choice)[ \t*_(\[]+)?([A-Z])"
    r"(?=[ \t*_`$\"']*(?:[.,;:)\]\n]|$|because\b|since\b|as\b))"
)
_OPTION_LETTER = re.compile(
    r"(?:(?:option|choice)\s+)?[(\[{]?([A-Z])"
    r"(?:[\s.,;:!*_`$\"')\]}]*$|[*_`$\"']*"
    r"(?:[)\]]|[.:](?=[\s*_`$\"'])|\s+[-\u2013\u2014]\s|,?\s+(?:because|since)\b|,\s+as\b))",
    re.I,
)
_WRAPPED = re.compile(
    r"(?:\\(?:boxed|text|textbf|textit|textrm|mathrm|mathbf)\s*\{(.*)\}"
    r"|\\\(((?:(?!\\\)).)*)\\\))[.,;]?",
    re.DOTALL,
)
_MARKUP = " \t\r\n*_`$\"'"


def final_answer(text: str, task: Task) -> str | None:
    r"""The answer that comes last by position, whatever its form; None where there is none.

    Braces of `\boxed{}` are balanced, nested forms yield the innermost, and answers without content
    do not count. For `choice` the result is the option's letter where the answer names one, else
    the answer's words; "the correct answer is a drug" names none and is no answer.
    """
    spans = [*tagged(text, "<answer>", "</answer>"), *boxed(text), *phrased(text, _PHRASE)]
    if task == "choice":
        spans += _bare_letters(text)
    last = max((span for span in spans if span.content), default=None)
    if last is None:
        return None
    if task == "math":
        return last.content
    answer = plain(last.content)
    return (option_letter(answer) or answer) if task == "choice" else answer


def option_letter(answer: str) -> str | None:
    """The option that a short answer names ("B", "(b)", "B. Paris", "option B"), in upper case.

    A letter counts only where it stands alone, so "a drug", "I don't know" and "e.g. x" name none.
    """
    found = _OPTION_LETTER.match(plain(answer))
    return found[1].upper() if found else None


def plain(answer: str) -> str:
    r"""The answer without emphasis, quotes, dollar signs, `\(\)` or an enclosing `\text{}`."""
    answer = answer.strip(_MARKUP)
    while (found := _WRAPPED.fullmatch(answer)) and _encloses(found[found.lastindex or 0]):
        answer = found[found.lastindex or 0].strip(_MARKUP)
    return answer


def _bare_letters(text: str) -> list[Span]:
    """Every "correct answer is B", where the letter stands alone."""
    return [Span(*found.span(), found[1]) for found in _BARE_LETTER.finditer(text)]


def _encloses(content: str) -> bool:
    """Whether no brace inside closes one outside."""
    depths = accumulate({"{": 1, "}": -1}.get(character, 0) for character in content)
    return min(depths, default=0) >= 0

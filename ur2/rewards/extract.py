r"""The final answer in free text: `<answer>` tags, `\boxed{}`, or "the correct answer is: X"."""

import re
from itertools import accumulate

from ur2.rewards.letters import LOOK_ALIKES, letters_named
from ur2.spans import Span, boxed, phrased, tagged
from ur2.types import Task

_PHRASE = "correct answer is:"
_BARE_LETTER = re.compile(
    r"(?i:correct answer is)[ \t*_`$\"'(\[]+(?:(?i:option|choice)[ \t*_(\[]+)?([A-Z])"
    r"(?=[ \t*_`$\"']*(?:[.,;:)\]\n]|$|because\b|since\b|as\b))"
)
_WRAPPED = re.compile(
    r"(?:\\(?:boxed|text|textbf|textit|textrm|mathrm|mathbf)\s*\{(.*)\}"
    r"|\\\(((?:(?!\\\)).)*)\\\)|\\\[((?:(?!\\\]).)*)\\\])[.,;]?",
    re.DOTALL,
)
_MARKUP = " \t\r\n*_`$\"'"


def final_answer(text: str, task: Task) -> str | None:
    r"""The answer that comes last by position, whatever its form; None where there is none.

    Braces of `\boxed{}` are balanced, nested forms yield the innermost, and answers without content
    do not count. For `choice` the result is the option's letter where the answer names one and no
    other, else the answer's words; "the correct answer is a drug" names none and is no answer.
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
    """The one option that a short answer names by letter, in upper case; see `letters`."""
    named = letters_named(answer)
    return named[0] if len(named) == 1 else None


def plain(answer: str) -> str:
    r"""The answer without emphasis, quotes, `$`, `\(\)`, `\[\]` or an enclosing `\text{}`."""
    answer = answer.strip(_MARKUP)
    while (found := _WRAPPED.fullmatch(answer)) and _encloses(found[found.lastindex or 0]):
        answer = found[found.lastindex or 0].strip(_MARKUP)
    return answer


def _bare_letters(text: str) -> list[Span]:
    """Every "correct answer is B", where the letter stands alone."""
    found = _BARE_LETTER.finditer(text.translate(LOOK_ALIKES))
    return [Span(*letter.span(), letter[1]) for letter in found]


def _encloses(content: str) -> bool:
    """Whether no brace inside closes one outside."""
    depths = accumulate({"{": 1, "}": -1}.get(character, 0) for character in content)
    return min(depths, default=0) >= 0

"""The dialect of R3-RAG (arXiv 2505.23794): numbered steps of labelled fields, without tags.

    Step 2:
    The problem analysis: ...
    The retrieval query: ...            or  The final answer: ...

A field ends where another label, a heading or the next step begins; a query also at its question
mark, which is dropped.
"""

import re
from dataclasses import dataclass

ANALYSIS, QUERY = "The problem analysis:", "The retrieval query:"
ANSWER, DOCUMENTS = "The final answer:", "The retrieval documents:"
_END_OF_TURN = re.compile(r"(?:<\|\w{1,40}\|>|</?s>)\s*$")
"""The token that ended the turn, which is part of its text."""
_LABELS = (ANALYSIS, QUERY, ANSWER, DOCUMENTS, "###")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepQuery:
    """The step asks for documents."""

    analysis: str
    query: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepAnswer:
    """The step gives the final answer."""

    analysis: str
    text: str


Step = StepQuery | StepAnswer


def heading(number: int) -> str:
    """The line that begins a step."""
    return f"Step {number}:\n"


def opened_once(text: str, number: int) -> bool:
    """Whether a turn begins its step, once."""
    return text.count(heading(number)) == 1


def read_step(text: str, *, as_published: bool = False) -> Step | None:
    """The step that a turn takes; None where a field is missing or empty.

    Args:
        text: the turn.
        as_published: strips backslashes and the letter n off both ends of fields, as the published
            code does, which makes "Berli" of "Berlin".
    """
    strip = str.strip if not as_published else _strip_published
    _, label, after = _END_OF_TURN.sub("", text).partition(ANALYSIS)
    analysis = strip(_cut(after, _LABELS))
    places = {name: after.find(name) for name in (QUERY, ANSWER) if name in after}
    if not label or not analysis or not places:
        return None
    first = min(places, key=places.__getitem__)
    rest = after[places[first] + len(first) :]
    content = _cut(rest, (*_LABELS, "\nStep"))
    if first == QUERY:
        query = strip(content.partition("?")[0])
        return StepQuery(analysis=analysis, query=query) if query else None
    answer = strip(content)
    return StepAnswer(analysis=analysis, text=answer) if answer else None


def shown_step(number: int, step: StepQuery, documents: str) -> str:
    """A step as later prompts show it."""
    return (
        f"\n{heading(number)}{ANALYSIS} {step.analysis}\n{QUERY} {step.query}\n"
        f"{DOCUMENTS} {documents}"
    )


def written_step(number: int, step: Step) -> str:
    """A step as the policy should write it."""
    end = f"{QUERY} {step.query}?" if isinstance(step, StepQuery) else f"{ANSWER} {step.text}"
    return f"{heading(number)}{ANALYSIS} {step.analysis}\n{end}"


def _cut(text: str, ends: tuple[str, ...]) -> str:
    """The text before whichever of `ends` comes first."""
    return re.split("|".join(map(re.escape, ends)), text, maxsplit=1)[0]


def _strip_published(text: str) -> str:
    return text.strip().strip("\\n").strip()

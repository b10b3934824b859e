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
class Step:
    """One step, which asks for documents or answers."""

    analysis: str
    query: str = ""
    answer: str = ""
    """The final answer; empty where there is a query."""

    def written(self, number: int) -> str:
        """The turn that the policy should write."""
        end = f"{QUERY} {self.query}?" if self.query else f"{ANSWER} {self.answer}"
        return f"{heading(number)}{ANALYSIS} {self.analysis}\n{end}"

    def shown(self, number: int, documents: str) -> str:
        """The lines of later prompts on a step that found documents."""
        return (
            f"\n{heading(number)}{ANALYSIS} {self.analysis}\n{QUERY} {self.query}\n"
            f"{DOCUMENTS} {documents}"
        )


def heading(number: int) -> str:
    """The line that begins a step; a turn has it once."""
    return f"Step {number}:\n"


def read_step(text: str, *, as_published: bool = False) -> Step | None:
    """The step that a turn takes; None where a field is missing or empty.

    Args:
        text: the turn.
        as_published: strips backslashes and the letter n off both ends of fields, as the published
            code does, which makes "Berli" of "Berlin".
    """
    _, _, after = _END_OF_TURN.sub("", text).partition(ANALYSIS)
    place, label = min(((after.find(x), x) for x in (QUERY, ANSWER) if x in after), default=(0, ""))
    ends = (*_LABELS, "\nStep", "?") if label == QUERY else (*_LABELS, "\nStep")
    fields = (_cut(after, _LABELS), _cut(after[place + len(label) :], ends))
    analysis, content = (
        field.strip().strip("\\n").strip() if as_published else field.strip() for field in fields
    )
    if not (label and analysis and content):
        return None
    return Step(analysis=analysis, **{"query" if label == QUERY else "answer": content})


def _cut(text: str, ends: tuple[str, ...]) -> str:
    """The text before whichever of `ends` comes first."""
    return re.split("|".join(map(re.escape, ends)), text, maxsplit=1)[0]

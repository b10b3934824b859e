"""The row schemas of question files, each recognised by a field that only it has."""

from collections.abc import Mapping
from string import ascii_uppercase
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ur2.datasets.fields import (
    Golds,
    KeyedRow,
    NonEmpty,
    Origin,
    check_choice,
    task_of_source,
)
from ur2.datasets.published import FIELDS_OF_FORMS, PUBLISHED, TASK_FIELDS
from ur2.types import Level, Question, Task

TASK_OF_FILE: Mapping[str, Task] = {"minerva": "math"}
"""Known files whose rows do not tell their task, by how the file's name begins."""

GSM8K_MARK = "\n#### "
"""GSM8K's answers are worked solutions; the gold follows this mark."""


class NativeRow(BaseModel):
    """This project's schema: the fields of `Question` by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: NonEmpty
    task: Task
    text: NonEmpty
    answers: Golds
    level: Level
    options: tuple[NonEmpty, ...] = ()
    subject: str = ""
    source: str = ""
    meta: dict[str, str] = {}

    @model_validator(mode="after")
    def _golds_are_among_the_options(self) -> Self:
        if self.task == "choice":
            check_choice(self.answers, len(self.options))
        return self

    def to_question(self, origin: Origin) -> Question:
        """The record; the file is its source where the row names none."""
        return Question(
            id=self.id,
            task=self.task,
            text=self.text,
            answers=self.answers,
            level=self.level,
            options=self.options,
            subject=self.subject,
            source=self.source or origin.name,
            meta=self.meta,
        )


class Ur2Row(KeyedRow):
    """UR²'s open QA and math; Bamboogle, Minerva, R1-Searcher, NQ and GSM8K look alike."""

    question: NonEmpty
    answer: Golds
    source: str | None = None
    level: int | str | None = None
    answer_aliases: Golds = ()
    aliases: Golds = ()
    solution: str | None = None
    """Present in math rows only."""
    subject: str = ""

    def to_question(self, origin: Origin) -> Question:
        """The record; raises ValueError as `KeyedRow.make`, or for an unknown source."""
        golds = [gold.rpartition(GSM8K_MARK)[2].strip() for gold in self.answer]
        return self.make(
            origin,
            task=self._task(origin),
            text=self.question,
            answers=tuple(dict.fromkeys((*golds, *self.answer_aliases, *self.aliases))),
            level=self.level,
            subject=self.subject,
            meta={"source": self.source} if self.source else None,
        )

    def _task(self, origin: Origin) -> Task:
        if self.source is not None:
            return task_of_source(self.source)
        if self.solution is not None or GSM8K_MARK in self.answer[0]:
            return "math"
        for name, task in TASK_OF_FILE.items():
            if origin.task is None and origin.stem.startswith(name):
                return task
        return origin.task or "qa"


def _option_texts(value: object) -> object:
    """Options under their letters become a list in letter order."""
    if isinstance(value, list):
        return tuple(_without_nulls(value))
    if isinstance(value, dict):
        present = _without_nulls([value[letter] for letter in sorted(value)])
        value = dict(zip(sorted(value), present, strict=False))
        letters = "".join(sorted(value))
        if letters != ascii_uppercase[: len(value)]:
            raise ValueError(f"letters must be A, B, C ... without a gap, got {letters}")
        return tuple(value[letter] for letter in letters)
    return value


def _without_nulls(texts: list[object]) -> list[object]:
    """Texts without the nulls at the end: tables give every row as many as the longest."""
    last = max((place for place, text in enumerate(texts, start=1) if text is not None), default=0)
    return texts[:last]


class ChoiceRow(KeyedRow):
    """Multiple choice: UR²'s, MedQA with any number of options, MMLU-Pro and its medical part.

    The gold is a letter (`answer_idx`, or `answer`) or the text of an option (`answer`).
    """

    question: NonEmpty
    options: Annotated[tuple[NonEmpty, ...], Field(min_length=2), BeforeValidator(_option_texts)]
    answer: NonEmpty
    answer_idx: str | None = None
    """The gold's letter, where `answer` is its text (MedQA)."""
    answer_index: int | None = None
    """The gold's place from 0, beside the letter (MMLU-Pro)."""
    context: tuple[str, ...] = ()
    """Sentences that stand before the question (MediQ's split of MedQA)."""
    source: str | None = None
    level: int | str | None = None
    subject: str = ""
    category: str = ""
    sub_category: str = ""

    def to_question(self, origin: Origin) -> Question:
        """The record.

        Raises:
            ValueError: the gold is not among the options, its fields contradict one another, or
                the source is unknown or not of multiple choice.
        """
        if self.source is not None and task_of_source(self.source) != "choice":
            raise ValueError(f"options: a row of source '{self.source}' has none; remove one")
        return self.make(
            origin,
            task="choice",
            text="\n".join([*self.context, self.question]),
            answers=(self._letter(),),
            level=self.level,
            options=self.options,
            subject=self.subject or self.category or self.sub_category,
            meta={"source": self.source} if self.source else None,
        )

    def _letter(self) -> str:
        letters = tuple(ascii_uppercase[: len(self.options)])
        named = self.answer_idx or self.answer
        if self.answer_idx is None and named not in letters and self.options.count(named) == 1:
            named = letters[self.options.index(named)]
        check_choice((named,), len(self.options))
        text = self.options[ascii_uppercase.index(named)]
        if self.answer_idx is not None and self.answer not in (text, named):
            raise ValueError(
                f"answer: '{self.answer}' is not option {named} ('{text}') that answer_idx names"
            )
        if self.answer_index not in (None, ascii_uppercase.index(named)):
            raise ValueError(f"answer_index: {self.answer_index} is not the place of {named}")
        return named


class MultiHopRow(KeyedRow):
    """HotpotQA and 2WikiMultiHopQA, with or without their paragraphs."""

    question: NonEmpty
    answer: Golds
    answer_aliases: tuple[NonEmpty, ...] = ()
    context: object = None
    """Paragraphs beside the question, which are left out: the policy searches for its own."""
    level: str | None = None
    type: str = ""

    def to_question(self, origin: Origin) -> Question:
        """The record; raises ValueError for an unknown level."""
        return self.make(
            origin,
            task="qa",
            text=self.question,
            answers=tuple(dict.fromkeys((*self.answer, *self.answer_aliases))),
            level=self.level,
            meta={"type": self.type} if self.type else None,
        )


class MusiqueRow(KeyedRow):
    """MuSiQue; its unanswerable twins have no gold and are refused."""

    question: NonEmpty
    answer: Golds
    answer_aliases: tuple[NonEmpty, ...] = ()
    answerable: bool = True

    def to_question(self, origin: Origin) -> Question:
        """The record; raises ValueError for an unanswerable question."""
        if not self.answerable:
            raise ValueError("answerable: false, so nothing can be graded; use the answerable part")
        answers = tuple(dict.fromkeys((*self.answer, *self.answer_aliases)))
        return self.make(origin, task="qa", text=self.question, answers=answers)


class GoldenAnswersRow(KeyedRow):
    """Open QA sets as FlashRAG and Search-R1 publish them."""

    question: NonEmpty
    golden_answers: Golds
    task: Task | None = None
    level: int | str | None = None

    def to_question(self, origin: Origin) -> Question:
        """The record."""
        task = self.task or origin.task or "qa"
        return self.make(
            origin, task=task, text=self.question, answers=self.golden_answers, level=self.level
        )


class MathRow(KeyedRow):
    """MATH and MATH-500 as published; the gold is the last box of the solution if not given."""

    problem: NonEmpty
    answer: Golds | None = None
    solution: str | None = None
    level: int | str | None = None
    subject: str = ""
    type: str = ""
    """The subject, as the first release calls it."""

    def to_question(self, origin: Origin) -> Question:
        r"""The record; raises ValueError where neither `answer` nor a `\boxed{}` gives a gold."""
        answers = self.answer
        if answers is None:
            gold = last_boxed(self.solution or "")
            if not gold:
                raise ValueError("answer: is missing, and the solution has no \\boxed{}; add it")
            answers = (gold,)
        return self.make(
            origin,
            task="math",
            text=self.problem,
            answers=answers,
            level=self.level,
            subject=self.subject or self.type,
        )


def last_boxed(text: str) -> str:
    r"""The inside of the last `\boxed{...}` of `text`, braces balanced; empty without one."""
    opening = "\\boxed{"
    start = text.rfind(opening)
    depth = 1
    for position in range(start + len(opening), len(text) if start >= 0 else 0):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start + len(opening) : position].strip()
    return ""


Row = NativeRow | Ur2Row | ChoiceRow | MultiHopRow | MusiqueRow | GoldenAnswersRow | MathRow

SCHEMAS: Mapping[str, type[Row]] = {
    "text": NativeRow,
    "problem": MathRow,
    "options": ChoiceRow,
    "golden_answers": GoldenAnswersRow,
    "question_decomposition": MusiqueRow,
    "answerable": MusiqueRow,
    "supporting_facts": MultiHopRow,
    "question": Ur2Row,
}
"""The schema of a row is that of the first of these fields that it has."""


def field_names(schema: type[Row]) -> frozenset[str]:
    """The fields of a schema, as files name them."""
    return frozenset(info.alias or name for name, info in schema.model_fields.items())


KNOWN_FIELDS = frozenset(SCHEMAS).union(
    *(field_names(schema) for schema in SCHEMAS.values()),
    PUBLISHED,
    TASK_FIELDS,
    FIELDS_OF_FORMS,
)
"""All that a table may be cut to before its rows are read."""

"""The row schemas of question files, and how each becomes a `Question`."""

from collections.abc import Mapping
from pathlib import Path
from string import ascii_uppercase
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ur2.types import Level, Question, Task

TASK_OF_SOURCE: Mapping[str, Task] = {
    "math": "math",
    "rag": "qa",
    **dict.fromkeys(
        ("philosophy", "history", "economics", "law", "medicine", "health", "medqa"), "choice"
    ),
}
"""UR²'s `source` field; its multiple-choice subjects all grade alike."""

LEVEL_OF_NUMBER: Mapping[int, Level] = {
    1: Level.EASY,
    2: Level.EASY,
    3: Level.MEDIUM,
    4: Level.HARD,
    5: Level.VERY_HARD,
}
"""The MATH data set's difficulty numbers."""

DEFAULT_LEVEL = Level.MEDIUM
"""Evaluation files carry no level."""

NonEmpty = Annotated[str, Field(min_length=1)]


class NativeRow(BaseModel):
    """This project's schema: the fields of `Question` by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: NonEmpty
    task: Task
    text: NonEmpty
    answers: Annotated[tuple[NonEmpty, ...], Field(min_length=1)]
    level: Level
    options: tuple[str, ...] = ()
    subject: str = ""
    source: str = ""
    meta: dict[str, str] = {}

    @model_validator(mode="after")
    def _golds_are_among_the_options(self) -> Self:
        if self.task == "choice":
            check_choice(self.answers, len(self.options))
        return self

    def to_question(self, *, source: str) -> Question:
        """The record; `source` is used where the row names none."""
        return Question(
            id=self.id,
            task=self.task,
            text=self.text,
            answers=self.answers,
            level=self.level,
            options=self.options,
            subject=self.subject,
            source=self.source or source,
            meta=self.meta,
        )


class Ur2Row(BaseModel):
    """UR²'s schema and that of its evaluation files; fields that carry no question are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    question: NonEmpty
    answer: NonEmpty | Annotated[tuple[NonEmpty, ...], Field(min_length=1)]
    source: str | None = None
    level: Level | int | None = None
    idx: int | str | None = None
    id: int | str | None = None
    question_id: int | str | None = None
    options: tuple[str, ...] = ()
    answer_idx: str | None = None
    """The gold's letter, where `answer` is its text (MedQA)."""
    solution: str | None = None
    """Present in MATH rows only."""
    subject: str = ""
    category: str = ""

    def to_question(self, *, file: Path, line: int, default_task: Task) -> Question:
        """The record.

        Raises:
            ValueError: an unknown source or level, or a gold that is not among the options.
        """
        task = self._task(default_task)
        golds = (self.answer,) if isinstance(self.answer, str) else self.answer
        if task == "choice":
            golds = (self.answer_idx,) if self.answer_idx else golds
            check_choice(golds, len(self.options))
        return Question(
            id=f"{file.name.partition('.')[0]}-{self._key(line)}",
            task=task,
            text=self.question.strip(),
            answers=golds,
            level=self._level(),
            options=self.options,
            subject=self.subject or self.category,
            source=str(file),
        )

    def _task(self, default: Task) -> Task:
        if self.source is None:
            return "choice" if self.options else "math" if self.solution else default
        if self.source not in TASK_OF_SOURCE:
            known = ", ".join(TASK_OF_SOURCE)
            raise ValueError(f"source: '{self.source}' is unknown; known: {known}")
        return TASK_OF_SOURCE[self.source]

    def _level(self) -> Level:
        if self.level is None:
            return DEFAULT_LEVEL
        if isinstance(self.level, Level):
            return self.level
        if self.level not in LEVEL_OF_NUMBER:
            raise ValueError(f"level: {self.level} is unknown; known: 1 to 5, or a name")
        return LEVEL_OF_NUMBER[self.level]

    def _key(self, line: int) -> int | str:
        keys = (self.idx, self.id, self.question_id)
        return next((key for key in keys if key is not None), line)


def check_choice(golds: tuple[str, ...], num_options: int) -> None:
    """Checks that every gold is the letter of an option.

    Raises:
        ValueError: naming the gold and the letters there are.
    """
    letters = ascii_uppercase[:num_options]
    for gold in golds:
        if len(gold) != 1 or gold not in letters:
            known = f"one of {letters}" if letters else "impossible: the row has no options"
            raise ValueError(f"answer: '{gold}' is not an option's letter, which is {known}")

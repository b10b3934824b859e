"""Field types and known names of all row schemas, and how a row becomes a question."""

from collections.abc import Mapping
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ur2.types import Level, Question, Task

TASK_OF_SOURCE: Mapping[str, Task] = {
    "math": "math",
    "rag": "qa",
    **dict.fromkeys(
        ("philosophy", "history", "economics", "law", "medicine", "health", "medqa"), "choice"
    ),
}
"""UR²'s `source` field; its multiple-choice subjects all grade alike."""

LEVEL_OF_NAME: Mapping[str, Level] = {
    **{level.value: level for level in Level},
    "Level 1": Level.EASY,
    "Level 2": Level.EASY,
    "Level 3": Level.MEDIUM,
    "Level 4": Level.HARD,
    "Level 5": Level.VERY_HARD,
    "Level ?": Level.MEDIUM,
}
"""By name, and as the MATH data set writes it (`Level ?`: two problems that it never rated)."""

DEFAULT_LEVEL = Level.MEDIUM
"""Evaluation files carry no level."""


def _as_golds(value: Any) -> Any:
    """One gold or several; a number or a truth value as it is said, `27.0` as 27.

    TriviaQA's object holds a value and its aliases.
    """
    if isinstance(value, dict):
        named = {name.lower(): inner for name, inner in value.items()}
        value = [named.get("value"), *(named.get("aliases") or ())]
        value = [gold for gold in value if gold is not None]
    golds = value if isinstance(value, list) else [value]
    return tuple(dict.fromkeys(map(_said, golds)) if all(map(_is_plain, golds)) else golds)


def _is_plain(gold: Any) -> bool:
    return isinstance(gold, str | int | float)


def _said(gold: Any) -> Any:
    if isinstance(gold, bool):
        return "yes" if gold else "no"
    if isinstance(gold, float) and gold.is_integer():
        gold = int(gold)
    return str(gold)


NonEmpty = Annotated[str, Field(pattern=r"\S")]
Golds = Annotated[tuple[NonEmpty, ...], Field(min_length=1), BeforeValidator(_as_golds)]
"""One gold or several, without repetitions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a row was read."""

    name: str
    """The question file, as the user named it."""
    stem: str
    """Begins the ids of rows that have a key of their own, or none."""
    number: int
    """The row's place in its file, from 1."""
    task: Task | None = None
    """The task of rows that do not tell theirs, as the user says."""
    is_table: bool = False
    """It is a table (parquet, or a set of the hub), not JSON."""


class KeyedRow(BaseModel):
    """A row under one of the customary keys; fields that no schema names are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    idx: int | str | None = None
    id: int | str | None = None
    mongo_id: str | None = Field(None, alias="_id")
    question_id: int | str | None = None
    qid: int | str | None = None
    data_source: str = ""
    """The set within a union of sets, whose keys are its own."""

    def make(
        self,
        origin: Origin,
        *,
        task: Task,
        text: str,
        answers: tuple[str, ...],
        level: str | int | None = None,
        options: tuple[str, ...] = (),
        subject: str = "",
        meta: Mapping[str, str] | None = None,
    ) -> Question:
        """The question record.

        Raises:
            ValueError: an unknown level, or a gold that is not the letter of an option.
        """
        if task == "choice":
            check_choice(answers, len(options))
        keys = (self.idx, self.id, self.mongo_id, self.question_id, self.qid)
        key = next((key for key in keys if key is not None), origin.number)
        return Question(
            id="-".join(filter(None, (origin.stem, self.data_source, str(key)))),
            task=task,
            text=text.strip(),
            answers=answers,
            level=level_of(level),
            options=options,
            subject=subject,
            source=origin.name,
            meta=meta or {},
        )


def level_of(level: str | int | None) -> Level:
    """The level that a file's name or number (1 to 5, as MATH counts) stands for.

    Raises:
        ValueError: naming the known levels.
    """
    if level is None:
        return DEFAULT_LEVEL
    name = f"Level {level}" if isinstance(level, int) else level
    if name not in LEVEL_OF_NAME:
        known = ", ".join(level.value for level in Level)
        raise ValueError(f"level: {level!r} is unknown; known: {known}, or 1 to 5")
    return LEVEL_OF_NAME[name]


def task_of_source(source: str) -> Task:
    """The task of a known source.

    Raises:
        ValueError: naming the known sources.
    """
    if source not in TASK_OF_SOURCE:
        raise ValueError(f"source: '{source}' is unknown; known: {', '.join(TASK_OF_SOURCE)}")
    return TASK_OF_SOURCE[source]


def check_choice(golds: tuple[str, ...], num_options: int) -> None:
    """Checks that every option has a letter, and that every gold is one of them.

    Raises:
        ValueError: naming the gold and the letters there are.
    """
    if num_options > len(ascii_uppercase):
        raise ValueError(f"options: {num_options} are more than there are letters from A to Z")
    letters = ascii_uppercase[:num_options]
    for gold in golds:
        if len(gold) != 1 or gold not in letters:
            known = f"one of {letters}" if letters else "impossible: the row has no options"
            raise ValueError(f"answer: {_short(gold)} is not an option's letter, which is {known}")


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")

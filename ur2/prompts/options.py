"""Options of the dialect and of the prompt texts."""

import datetime
from typing import Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from ur2.options import Options
from ur2.types import Task

AnswerFormName = Literal["tags", "boxed", "phrase"]

RESERVED_KWARGS = frozenset(
    {"add_generation_prompt", "chat_template", "messages", "strftime_now", "tokenize"}
)


class MarkerOptions(Options):
    """A pair of markers around a span of text."""

    open: str = Field(pattern=r"^\S{2,}$")
    """The opening marker: two characters or more, no white space."""
    close: str = Field(pattern=r"^\S{2,}$")
    """The closing marker: two characters or more, no white space."""


class AnswerOptions(Options):
    """How a final answer is marked."""

    form: AnswerFormName = "tags"
    """`tags`: between `open` and `close`; `boxed`: inside LaTeX's boxed command; `phrase`: from
    `open` to the end of its line."""
    open: str = ""
    """The opening marker of `tags`, the words of `phrase`."""
    close: str = ""
    """The closing marker of `tags`."""

    @model_validator(mode="after")
    def _markers_fit_the_form(self) -> Self:
        needed = {"tags": (True, True), "boxed": (False, False), "phrase": (True, False)}[self.form]
        if (bool(self.open), bool(self.close)) != needed:
            names = [name for name, need in zip(("open", "close"), needed, strict=True) if need]
            raise ValueError(f"form '{self.form}' takes {' and '.join(names) or 'no markers'}")
        if self.form == "tags":
            MarkerOptions(open=self.open, close=self.close)
        return self


class DialectOptions(Options):
    """The markers and limits of an episode."""

    search: MarkerOptions
    """Around a query."""
    documents: MarkerOptions
    """Around what a search returned."""
    answer: AnswerOptions
    """How the final answer is marked."""
    answer_by_task: dict[Task, AnswerOptions] = Field(default_factory=dict)
    """Tasks whose final answer is marked differently."""
    max_searches: int = Field(4, ge=0)
    """Searches that one episode may make."""
    max_query_words: int = Field(20, ge=1)
    """Words that a query should stay within."""
    passage: str = "{{ passage.text }}"
    """Jinja template of one passage: `passage` (title, text, id) and `number` from 1."""
    no_documents: str = "Nothing was found."
    """Stands between the documents markers where a search returned nothing."""
    documents_padding: str = ""
    """Text before and after the documents with their markers, e.g. line breaks."""

    @model_validator(mode="after")
    def _markers_are_distinct(self) -> Self:
        answers = {(a.open, a.close) for a in (self.answer, *self.answer_by_task.values())}
        pairs = [
            (self.search.open, self.search.close),
            (self.documents.open, self.documents.close),
            *((opening, closing) for opening, closing in sorted(answers) if closing),
        ]
        markers = [marker for pair in pairs for marker in pair]
        for position, marker in enumerate(markers):
            if any(marker in other for other in markers[:position] + markers[position + 1 :]):
                raise ValueError(f"marker {marker!r} is used twice or is part of another marker")
        return self


class TemplateOptions(Options):
    """The user message of one task: Jinja templates.

    They see `question`, `options` (lettered, e.g. "A. Paris"), `search`, `documents`, `answer`
    (each with `open` and `close`) and `protocol` (`max_searches`, `max_query_words`).
    """

    search: str
    """The message where retrieval is on."""
    direct: str
    """The message where retrieval is off; it shows no search marker."""


class PromptOptions(Options):
    """Texts that the policy reads before it writes."""

    protocol: DialectOptions
    """The markers and limits."""
    templates: dict[Task, TemplateOptions]
    """The user message per task."""
    last_turn: str | None = None
    """Jinja template of words put after the last documents that an episode may get, without loss,
    such as "I must answer now."; it sees `question`, `answer` and `protocol`. None puts nothing."""
    system: str | None = None
    """The system message; None sends none (the chat template may add its own)."""
    chat_template_kwargs: dict[str, JsonValue] = Field(default_factory=dict)
    """Further variables of the model's chat template, e.g. `enable_thinking: false` where it has a
    switch of that name; one that the template does not use is refused."""
    date: datetime.date | None = None
    """The day (YYYY-MM-DD) that a chat template is told which asks for it, as some of Llama's do.
    By default the day on which the run began, however long it takes."""

    @field_validator("chat_template_kwargs")
    @classmethod
    def _are_the_users_to_set(cls, given: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if taken := sorted(given.keys() & RESERVED_KWARGS):
            raise ValueError(f"{', '.join(taken)} cannot be set: rendering decides it")
        return given

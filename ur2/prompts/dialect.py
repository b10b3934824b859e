"""The one definition of the markers of an episode: what stops a turn, and how turns are read."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jinja2

from ur2.errors import InputError
from ur2.prompts.options import AnswerFormName, AnswerOptions, DialectOptions
from ur2.spans import Span, boxed, occurrences, phrased, tagged
from ur2.types import Passage, Task


@dataclass(frozen=True, slots=True)
class Search:
    """The turn asks for documents."""

    query: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The turn gives the final answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Stop:
    """The turn ends with neither."""

    reason: str


Action = Search | Answer | Stop


@dataclass(frozen=True, slots=True)
class Markers:
    """A pair of markers."""

    open: str
    close: str


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A text between markers; the text may be cut, and must not be trusted."""

    text: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Limits:
    """The searches and words per query that one episode may use."""

    max_searches: int
    max_query_words: int


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """How a final answer is written and found; `close` is empty where the line's end closes it."""

    form: AnswerFormName
    open: str
    close: str

    def spans(self, text: str) -> list[Span]:
        """Every complete answer, in text order."""
        return _FINDERS[self.form](text, self)

    def count(self, text: str) -> int:
        """How often the answer's markers are used, complete or not."""
        if self.form == "phrase":
            return len(occurrences(text, self.open))
        if self.form == "boxed":
            return text.count("\\boxed")
        return max(text.count(self.open), text.count(self.close))


class Dialect:
    """Markers, limits and their reading, built once from options."""

    def __init__(self, options: DialectOptions) -> None:
        self.search = Markers(options.search.open, options.search.close)
        self.documents = Markers(options.documents.open, options.documents.close)
        self.limits = Limits(options.max_searches, options.max_query_words)
        self._default_form = _answer_form(options.answer)
        self._forms = {task: _answer_form(o) for task, o in options.answer_by_task.items()}
        self._options = options
        self._passage = Template(options.passage, where="prompt.protocol.passage")
        self._passage.render(passage=Passage(id="", text=""), number=1)
        forms = (self._default_form, *self._forms.values())
        self._all_forms = tuple(dict.fromkeys(forms))
        tags = [form for form in self._all_forms if form.form == "tags"]
        self.stop_strings: tuple[str, ...] = tuple(
            dict.fromkeys([self.search.close, *(form.close for form in tags)])
        )
        """A turn ends with the first of these."""
        self.markers: tuple[str, ...] = tuple(
            dict.fromkeys(
                [
                    self.search.open,
                    self.search.close,
                    self.documents.open,
                    self.documents.close,
                    *(m for form in tags for m in (form.open, form.close)),
                    *(form.open for form in self._all_forms if form.form == "boxed"),
                ]
            )
        )
        """Every string that gives a text structure."""
        self.pairs = (self.search, *(Markers(form.open, form.close) for form in tags))
        """The markers that a policy closes a turn with, and what opens them."""

    def answer_form(self, task: Task) -> AnswerForm:
        """How answers of `task` are marked."""
        return self._forms.get(task, self._default_form)

    def parse(self, completion: str, task: Task | None = None) -> Action:
        """Reads one turn: its last complete search or answer, by where it starts.

        A span without content is no action, and a search that opens after the last action and is
        not completed is a `Stop`.

        Args:
            completion: what the policy wrote; anything after the action is ignored.
            task: reads only the answer form of this task; None reads any form of the dialect.
        """
        forms = self._all_forms if task is None else (self.answer_form(task),)
        answers = [_last(form.spans(completion)) for form in forms]
        search = _last(tagged(completion, self.search.open, self.search.close))
        last = max(filter(None, (*answers, search)), default=None)
        if completion.rfind(self.search.open) >= (last.end if last else 0):
            return Stop("the search has no query or is not closed")
        if last is None:
            return Stop("neither a search nor an answer")
        return Search(last.content) if last is search else Answer(last.content)

    def answer(self, completion: str, task: Task) -> str | None:
        """The final answer of a turn; None where its last action is not an answer of `task`."""
        action = self.parse(completion, task)
        return action.text if isinstance(action, Answer) else None

    def queries(self, text: str) -> list[str]:
        """Every complete query, in text order."""
        return [span.content for span in tagged(text, self.search.open, self.search.close)]

    def wrap(self, found: Sequence[Passage] | str) -> Wrapped:
        """An observation: passages, best first, or a text about them, between its markers."""
        text = found if isinstance(found, str) else self._passages(found)
        padding = self._options.documents_padding
        return Wrapped(
            text=text.strip() or self._options.no_documents,
            before=f"{padding}{self.documents.open} ",
            after=f" {self.documents.close}{padding}",
        )

    def _passages(self, passages: Sequence[Passage]) -> str:
        numbered = enumerate(passages, start=1)
        return "\n".join(self._passage.render(passage=p, number=n) for n, p in numbered)

    def render_turn(
        self,
        thought: str,
        *,
        search: str | None = None,
        answer: str | None = None,
        task: Task = "qa",
    ) -> str:
        """The text of a turn as the policy should write it.

        Raises:
            InputError: `parse` would not read the given search or answer back from the turn.
        """
        parts = [thought.strip()]
        expected: Action = Stop("neither a search nor an answer")
        if search is not None:
            parts.append(f"{self.search.open} {search.strip()} {self.search.close}")
            expected = Search(search.strip())
        elif answer is not None:
            form = self.answer_form(task)
            gap = "" if form.form == "boxed" else " "
            end = f"{gap}{form.close}" if form.close else ""
            parts.append(f"{form.open}{gap}{answer.strip()}{end}")
            expected = Answer(answer.strip())
        text = " ".join(part for part in parts if part)
        if (read := self.parse(text, task)) != expected:
            raise InputError(
                f"a turn would be read as {read} instead of {expected}; remove the markers or "
                f"unbalanced braces from: {text[:200]!r}"
            )
        return text


def neutralise(text: str, markers: tuple[str, ...]) -> str:
    """Breaks every occurrence of a marker by a space after its first character.

    Every start of a marker is broken, overlapping ones too, and a marker holds no white space, so
    that none is left and none arises.
    """
    return _starts(markers).sub(r"\1 ", text)


@functools.lru_cache(maxsize=64)
def _starts(markers: tuple[str, ...]) -> re.Pattern[str]:
    """Matches the first character of every marker of two characters or more."""
    alternatives = "|".join(re.escape(marker) for marker in markers if len(marker) > 1)
    return re.compile(f"(?=(?:{alternatives}))(.)" if alternatives else "(?!)()")


class Template:
    """A Jinja template in which an unknown name is an error."""

    def __init__(self, text: str, *, where: str) -> None:
        self._where = where
        try:
            self._template = _JINJA.from_string(text)
        except jinja2.TemplateSyntaxError as error:
            raise InputError(f"{where}: line {error.lineno}: {error.message}") from error

    def render(self, **values: object) -> str:
        """The text for these values, stripped.

        Raises:
            InputError: the template uses a name that it is not given, or cannot be computed.
        """
        try:
            return self._template.render(**values).strip()
        except jinja2.UndefinedError as error:
            known = ", ".join(sorted(values))
            raise InputError(f"{self._where}: {error.message}; known: {known}") from error
        except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise InputError(f"{self._where}: {type(error).__name__}: {error}") from error


def _answer_form(options: AnswerOptions) -> AnswerForm:
    if options.form == "boxed":
        return AnswerForm("boxed", "\\boxed{", "}")
    return AnswerForm(options.form, options.open, options.close)


def _last(spans: Sequence[Span]) -> Span | None:
    for span in reversed(spans):
        if span.content:
            return span
    return None


_JINJA = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)

_FINDERS: Mapping[AnswerFormName, Callable[[str, AnswerForm], list[Span]]] = {
    "tags": lambda text, form: tagged(text, form.open, form.close),
    "boxed": lambda text, form: boxed(text),
    "phrase": lambda text, form: phrased(text, form.open),
}

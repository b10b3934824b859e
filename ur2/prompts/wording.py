"""The words around a question: the user's message, and what stands before the last turn."""

from collections.abc import Sequence
from dataclasses import replace
from string import ascii_uppercase

from ur2.errors import InputError
from ur2.prompts.dialect import Dialect, Template, neutralise
from ur2.prompts.options import PromptOptions
from ur2.types import Level, Question, Task

_PROBE = Question(id="probe", task="qa", text="?", answers=("!",), level=Level.EASY)


class Wording:
    """The texts of a prompt's config, for questions that cannot break out of them.

    Args:
        options: the texts.
        forbidden: strings that no question may carry, such as a tokenizer's added tokens; they
            are broken by a space.

    Raises:
        InputError: a template does not render.
    """

    def __init__(self, options: PromptOptions, *, forbidden: Sequence[str] = ()) -> None:
        self.dialect = Dialect(options.protocol)
        self._forbidden = tuple(forbidden)
        self._templates = _compile(options)
        self._padding = options.protocol.documents_padding
        self._last_turn = options.last_turn and Template(
            options.last_turn, where="prompt.last_turn"
        )
        for task, retrieval in self._templates:
            probe = replace(_PROBE, task=task)
            self.message(probe, retrieval)
            self.last_turn(probe)

    def message(self, question: Question, retrieval: bool) -> str:
        """The user's message that asks the question.

        Raises:
            InputError: there is no template for the question's task.
        """
        template = self._templates.get((question.task, retrieval))
        if template is None:
            raise InputError(
                f"question '{question.id}' is a '{question.task}' task, and the prompt config has "
                f"no templates.{question.task}; add one or leave the question out"
            )
        options = [
            f"{letter}. {neutralise(text, self._forbidden)}"
            for letter, text in zip(ascii_uppercase, question.options, strict=False)
        ]
        return template.render(
            question=self._safe(question),
            options=options,
            search=self.dialect.search,
            documents=self.dialect.documents,
            answer=self.dialect.answer_form(question.task),
            protocol=self.dialect.limits,
        )

    def last_turn(self, question: Question) -> str | None:
        """Words before the turn in which only an answer helps; None where there are none."""
        if not self._last_turn:
            return None
        words = self._last_turn.render(
            question=self._safe(question),
            answer=self.dialect.answer_form(question.task),
            protocol=self.dialect.limits,
        )
        return f"{words}{self._padding}"

    def _safe(self, question: Question) -> Question:
        return replace(question, text=neutralise(question.text, self._forbidden))


def _compile(options: PromptOptions) -> dict[tuple[Task, bool], Template]:
    templates = {}
    for task, texts in options.templates.items():
        where = f"prompt.templates.{task}"
        templates[task, True] = Template(texts.search, where=f"{where}.search")
        templates[task, False] = Template(texts.direct, where=f"{where}.direct")
    return templates

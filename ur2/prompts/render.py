"""Questions, documents and demonstrations as token ids, through the tokenizer's chat template."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

import jinja2

from ur2.demonstrations import DemonstratedTurn, Demonstration
from ur2.errors import InputError
from ur2.prompts.dialect import Dialect, Template, neutralise
from ur2.prompts.options import PromptOptions
from ur2.types import Author, Level, Passage, Question, Segment, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = Question(id="probe", task="qa", text="?", answers=("!",), level=Level.EASY)


class PromptRenderer:
    """Renders for one tokenizer.

    Args:
        tokenizer: any Hugging Face tokenizer with a chat template.
        dialect: the markers; `options.protocol` as an object.
        options: the texts.
        max_prompt_tokens: longer prompts are refused; None accepts any.
        generation_eos: end-of-turn ids of the model's generation config, beside the tokenizer's.

    Raises:
        InputError: the tokenizer has no chat template, or a template does not render.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        dialect: Dialect,
        options: PromptOptions,
        *,
        max_prompt_tokens: int | None = None,
        generation_eos: Sequence[int] = (),
    ) -> None:
        if not tokenizer.chat_template:
            raise InputError(
                f"the tokenizer of '{tokenizer.name_or_path}' has no chat template; use an "
                "instruct model, or put a chat_template.jinja into the model's folder"
            )
        self.dialect = dialect
        self._tokenizer: Any = tokenizer
        self._max_prompt_tokens = max_prompt_tokens
        self._system = options.system
        self._chat_kwargs = dict(options.chat_template_kwargs)
        _check_used(self._chat_kwargs, str(tokenizer.chat_template))
        self._templates = _compile(options)
        self._padding = options.protocol.documents_padding
        self._last_turn = (
            None
            if options.last_turn is None
            else Template(options.last_turn, where="prompt.last_turn")
        )
        self._special = tuple(
            token.content for token in tokenizer.added_tokens_decoder.values() if token.special
        )
        own_eos = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
        self.stop_token_ids: tuple[int, ...] = tuple(dict.fromkeys([*own_eos, *generation_eos]))
        """Ids that end a turn of the model."""
        for task, retrieval in self._templates:
            self._chat(self._message(task, retrieval, _PROBE))
            self.last_turn(replace(_PROBE, task=task))

    def prompt(self, question: Question, retrieval: bool) -> Segment:
        """The prompt of a question, up to where the policy starts to write.

        The text of the question cannot carry special tokens into the chat: they are broken by a
        space.

        Raises:
            InputError: there is no template for the question's task, or the prompt is too long.
        """
        text = self._chat(self._message(question.task, retrieval, question))
        token_ids = self._encode(text)
        limit = self._max_prompt_tokens
        if limit is not None and len(token_ids) > limit:
            raise InputError(
                f"question '{question.id}': its prompt has {len(token_ids)} tokens, more than "
                f"{limit}; raise rollout.max_prompt_tokens or leave the question out"
            )
        return Segment(author=Author.PROMPT, token_ids=token_ids, text=text)

    def observation(self, text: str, *, step: int = 0) -> Segment:
        """Text of the environment, already wrapped and safe, as a segment."""
        return Segment(
            author=Author.ENVIRONMENT, token_ids=self._encode(text), text=text, step=step
        )

    def documents(
        self, found: Sequence[Passage] | str, *, max_tokens: int | None = None, step: int = 0
    ) -> Segment:
        """Documents that a search returned, wrapped in their markers.

        Neither the dialect's markers nor the tokenizer's special tokens survive inside the text.

        Args:
            found: passages, best first, or a text about them.
            max_tokens: the text is cut until the segment fits; its markers always stay.
            step: the turn of the episode.
        """

        def segment(max_chars: int | None) -> Segment:
            text = self.dialect.wrap_documents(found, max_chars=max_chars, forbidden=self._special)
            return self.observation(text, step=step)

        fitting = segment(None)
        max_chars = len(fitting.text)
        while max_tokens is not None and len(fitting.token_ids) > max_tokens and max_chars > 0:
            max_chars = min(max_chars - 1, max_chars * max_tokens // len(fitting.token_ids))
            fitting = segment(max_chars)
        return fitting

    def last_turn(self, question: Question, *, step: int = 0) -> Segment | None:
        """Words put before the turn in which only an answer helps; None where there are none."""
        if self._last_turn is None:
            return None
        words = self._last_turn.render(
            question=self._safe(question),
            answer=self.dialect.answer_form(question.task),
            protocol=self.dialect.limits,
        )
        text = f"{words}{self._padding}"
        return Segment(author=Author.INJECTED, token_ids=self._encode(text), text=text, step=step)

    def demonstration(
        self, demo: Demonstration, *, max_observation_tokens: int | None = None
    ) -> tuple[Segment, ...]:
        """A worked example as an episode would record it.

        Turns are POLICY segments, or INJECTED ones (without loss) where `learn` is False; documents
        are ENVIRONMENT segments. An answer whose marker does not stop generation is followed by the
        tokenizer's end-of-sequence token.

        Raises:
            InputError: a turn's text would not be read back as that turn.
        """
        segments = [self.prompt(demo.question, demo.retrieval)]
        for step, turn in enumerate(demo.turns):
            segments.append(self._turn(turn, demo.question.task, step))
            if turn.search is not None:
                segments.append(
                    self.documents(turn.documents, max_tokens=max_observation_tokens, step=step)
                )
        return tuple(segments)

    def _turn(self, turn: DemonstratedTurn, task: Task, step: int) -> Segment:
        text = self.dialect.render_turn(
            turn.thought, search=turn.search, answer=turn.answer, task=task
        )
        stops = turn.search is not None or self.dialect.answer_form(task).form == "tags"
        if not stops and self._tokenizer.eos_token:
            text += self._tokenizer.eos_token
        author = Author.POLICY if turn.learn else Author.INJECTED
        return Segment(author=author, token_ids=self._encode(text), text=text, step=step)

    def _message(self, task: Task, retrieval: bool, question: Question) -> str:
        template = self._templates.get((task, retrieval))
        if template is None:
            raise InputError(
                f"question '{question.id}' is a '{task}' task, and the prompt config has no "
                f"templates.{task}; add one or leave the question out"
            )
        options = [
            f"{letter}. {neutralise(text, self._special)}"
            for letter, text in zip(ascii_uppercase, question.options, strict=False)
        ]
        return template.render(
            question=self._safe(question),
            options=options,
            search=self.dialect.search,
            documents=self.dialect.documents,
            answer=self.dialect.answer_form(task),
            protocol=self.dialect.limits,
        )

    def _safe(self, question: Question) -> Question:
        return replace(question, text=neutralise(question.text, self._special))

    def _chat(self, message: str) -> str:
        messages = [{"role": "user", "content": message}]
        if self._system is not None:
            messages.insert(0, {"role": "system", "content": self._system})
        try:
            text: str = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **self._chat_kwargs
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise InputError(
                f"the chat template of '{self._tokenizer.name_or_path}' does not take the prompt's "
                f"messages ({', '.join(m['role'] for m in messages)}) with these "
                f"prompt.chat_template_kwargs: {error}"
            ) from error
        return text

    def _encode(self, text: str) -> tuple[int, ...]:
        # The chat template writes the special tokens itself: adding them would double the BOS.
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))


def _check_used(names: Iterable[str], chat_template: str) -> None:
    """Raises an InputError for a variable that the chat template does not mention."""
    for name in names:
        if not re.search(rf"\b{re.escape(name)}\b", chat_template):
            raise InputError(
                f"prompt.chat_template_kwargs: the model's chat template has no variable '{name}'; "
                "remove it"
            )


def _compile(options: PromptOptions) -> dict[tuple[Task, bool], Template]:
    templates = {}
    for task, texts in options.templates.items():
        where = f"prompt.templates.{task}"
        templates[task, True] = Template(texts.search, where=f"{where}.search")
        templates[task, False] = Template(texts.direct, where=f"{where}.direct")
    return templates

"""Text as token ids, through the tokenizer's chat template."""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import jinja2

from ur2.errors import InputError
from ur2.prompts.dialect import neutralise
from ur2.prompts.options import PromptOptions
from ur2.prompts.wording import Wording
from ur2.types import Author, Segment

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PromptRenderer:
    """Renders for one tokenizer.

    Args:
        tokenizer: any Hugging Face tokenizer with a chat template.
        options: the texts, and what the chat template is told.
        generation_eos: end-of-turn ids of the model's generation config, beside the tokenizer's.

    Raises:
        InputError: the tokenizer has no chat template, or a template does not render.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        options: PromptOptions,
        *,
        generation_eos: Sequence[int] = (),
    ) -> None:
        if not tokenizer.chat_template:
            raise InputError(
                f"the tokenizer of '{tokenizer.name_or_path}' has no chat template; use an "
                "instruct model, or put a chat_template.jinja into the model's folder"
            )
        self._tokenizer: Any = tokenizer
        self._system = options.system
        self._chat_kwargs = dict(options.chat_template_kwargs)
        _check_used(self._chat_kwargs, str(tokenizer.chat_template))
        self._special = tuple(
            token.content for token in tokenizer.added_tokens_decoder.values() if token.special
        )
        self.wording = Wording(options, forbidden=self._special)
        """The config's texts, for questions that hold none of the tokenizer's special tokens."""
        self._markers = self.wording.dialect.markers
        own_eos = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
        self.stop_token_ids: tuple[int, ...] = tuple(dict.fromkeys([*own_eos, *generation_eos]))
        """Ids that end a turn of the model."""
        self.end_of_turn: str = tokenizer.eos_token or ""
        """The text of the token that ends a turn."""
        self._chat("?")

    def opening(self, message: str, *, turn: int = 0, role: str = "policy") -> Segment:
        """A user's message that begins a context, up to where the policy starts to write."""
        text = self._chat(message)
        token_ids = self._encode(text)
        return Segment(author=Author.PROMPT, token_ids=token_ids, text=text, turn=turn, role=role)

    def harmless(self, text: str) -> str:
        """A text for a user's message, with nothing in it that could forge a turn of the chat."""
        forging = tuple(s for s in self._special if s not in self._markers)
        return neutralise(text, forging)

    def piece(
        self,
        text: str,
        *,
        before: str = "",
        after: str = "",
        author: Author = Author.ENVIRONMENT,
        forbidden: tuple[str, ...] = (),
        max_tokens: int | None = None,
        turn: int = 0,
    ) -> Segment:
        """Renders what continues a context: `text` between two parts that are as they are.

        Neither the dialect's markers nor the tokenizer's special tokens survive inside `text`.

        Args:
            text: cut until the segment fits, and made harmless.
            before: stays.
            after: stays.
            author: who writes it.
            forbidden: further strings that must not stand in `text`.
            max_tokens: of the whole segment; None: any number.
            turn: of the episode.
        """
        body = neutralise(text, (*self._markers, *self._special, *forbidden)).strip()

        def segment(max_chars: int | None) -> Segment:
            whole = f"{before}{body[:max_chars].rstrip()}{after}"
            return Segment(author=author, token_ids=self._encode(whole), text=whole, turn=turn)

        fitting = segment(None)
        max_chars = len(fitting.text)
        while max_tokens is not None and len(fitting.token_ids) > max_tokens and max_chars > 0:
            max_chars = min(max_chars - 1, max_chars * max_tokens // len(fitting.token_ids))
            fitting = segment(max_chars)
        return fitting

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

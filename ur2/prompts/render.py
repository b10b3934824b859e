"""Text as token ids, through the tokenizer's chat template."""

import datetime
import functools
import json
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import jinja2

from ur2.errors import InputError
from ur2.prompts.appending import (
    PROBE_TOOL,
    Messages,
    Render,
    between,
    call_format,
    check_tools_shown,
)
from ur2.prompts.dialect import neutralise
from ur2.prompts.options import PromptOptions
from ur2.prompts.tool_calls import CALL_TAGS, CallFormat, ToolSchema
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
        self._day = options.date or datetime.date.today()
        _check_used(self._chat_kwargs, str(tokenizer.chat_template))
        added = tokenizer.added_tokens_decoder
        self._special = tuple(token.content for token in added.values() if token.special)
        # all of them, since `</think>` and `<tool_call>` are not special; runs of spaces do no harm
        self._added = tuple(token.content for token in added.values() if token.content.strip())
        self.wording = Wording(options, forbidden=self._added)
        """The config's texts, for questions that hold none of the tokenizer's added tokens."""
        self._markers = self.wording.dialect.markers
        own_eos = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
        self.stop_token_ids: tuple[int, ...] = tuple(dict.fromkeys([*own_eos, *generation_eos]))
        """Ids that end a turn of the model."""
        self.end_of_turn: str = tokenizer.eos_token or ""
        """The text of the token that ends a turn."""
        self.stop_texts = tuple(t.content for id, t in added.items() if id in self.stop_token_ids)
        """Their texts."""
        self._between = functools.cache(
            lambda num_replies: between(self._probing(), self.stop_texts, num_replies)
        )
        self._chat("?")

    def opening(
        self,
        message: str,
        *,
        tools: Sequence[ToolSchema] = (),
        turn: int = 0,
        role: str = "policy",
    ) -> Segment:
        """A user's message that begins a context, up to where the policy starts to write.

        Args:
            message: the text.
            tools: the functions that the template shows.
            turn: of the episode.
            role: the part that is asked to play.
        """
        text = self._chat(message, tools)
        token_ids = self.encode(text)
        return Segment(author=Author.PROMPT, token_ids=token_ids, text=text, turn=turn, role=role)

    def harmless(self, text: str) -> str:
        """A text for a user's message, with nothing in it that could forge a turn of the chat."""
        forging = tuple(s for s in self._added if s not in self._markers)
        return neutralise(text, forging)

    def unforged(self, turn: str) -> str:
        """A turn that another model wrote, without this one's special tokens."""
        return neutralise(turn, tuple(s for s in self._special if s not in self._markers))

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

        Neither the dialect's markers nor the tokenizer's added tokens survive inside `text`.

        Args:
            text: cut until the segment fits, and made harmless.
            before: stays.
            after: stays.
            author: who writes it.
            forbidden: further strings that must not stand in `text`.
            max_tokens: of the whole segment; None: any number.
            turn: of the episode.
        """
        body = neutralise(text, (*self._markers, *self._added, *forbidden)).strip()

        def segment(max_chars: int | None) -> Segment:
            whole = f"{before}{body[:max_chars].rstrip()}{after}"
            return Segment(author=author, token_ids=self.encode(whole), text=whole, turn=turn)

        fitting = segment(None)
        max_chars = len(fitting.text)
        while max_tokens is not None and len(fitting.token_ids) > max_tokens and max_chars > 0:
            max_chars = min(max_chars - 1, max_chars * max_tokens // len(fitting.token_ids))
            fitting = segment(max_chars)
        return fitting

    def call_format(self) -> CallFormat:
        """How the model writes calls of tools.

        Raises:
            InputError: its chat template cannot be used with tools.
        """
        check_tools_shown(self._probing())
        self._between(1)
        return call_format(self._probing())

    def replies(
        self,
        texts: Sequence[str],
        *,
        max_tokens: Sequence[int | None],
        ended: bool = True,
        turn: int = 0,
    ) -> tuple[Segment, ...]:
        """Messages of tools that follow a turn, up to where the policy starts to write again.

        Args:
            texts: what the tools say; cut until each segment fits, and made harmless.
            max_tokens: of each segment.
            ended: whether the turn stands with the token that ends it; otherwise it is added.
            turn: of the episode.

        Raises:
            InputError: the chat template cannot be used with tools.
        """
        template = self._between(len(texts))
        befores, afters = self._frames(template.parts)
        if not ended:
            befores[0] = template.end_of_turn + befores[0]
        forbidden = (*CALL_TAGS, *re.findall(r"</?\w+>", "".join(template.parts)))
        return tuple(
            self.piece(
                template.written(text.strip()),
                before=opened,
                after=closed,
                forbidden=forbidden,
                max_tokens=limit,
                turn=turn,
            )
            for text, limit, opened, closed in zip(texts, max_tokens, befores, afters, strict=True)
        )

    def _frames(self, parts: Sequence[str]) -> tuple[list[str], list[str]]:
        """The texts before and after each reply; parts between replies are cut at a special token.

        Text on both sides of such a cut has the same tokens as if it were encoded as one.
        """
        befores, afters = [parts[0]], []
        for part in parts[1:-1]:
            cut = max((part.rfind(s) + len(s) for s in self._special if s in part), default=None)
            afters.append(part[:cut])
            befores.append("" if cut is None else part[cut:])
        return befores, [*afters, parts[-1]]

    def _probing(self) -> Render:
        """The chat template, told of a tool."""
        return lambda messages, prompted: self._template(messages, (PROBE_TOOL,), prompted)

    def _chat(self, message: str, tools: Sequence[ToolSchema] = ()) -> str:
        messages = [{"role": "user", "content": message}]
        try:
            return self._template(messages, tools)
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise InputError(
                f"the chat template of '{self._tokenizer.name_or_path}' does not take the prompt's "
                f"messages ({'system, ' if self._system is not None else ''}user) with these "
                f"prompt.chat_template_kwargs: {error}"
            ) from error

    def _template(
        self, messages: Messages, tools: Sequence[ToolSchema], prompted: bool = True
    ) -> str:
        if self._system is not None:
            messages = [{"role": "system", "content": self._system}, *messages]
        given = {**self._chat_kwargs, "strftime_now": self._day.strftime}
        if tools:  # described by strangers, who must not forge a turn
            functions = json.dumps([tool.as_function() for tool in tools], ensure_ascii=False)
            given["tools"] = json.loads(neutralise(functions, self._added))
        return str(
            self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=prompted, **given
            )
        )

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of ids, special tokens included."""
        return str(
            self._tokenizer.decode(
                token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    def encode(self, text: str) -> tuple[int, ...]:
        """The ids of a text that continues a context."""
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

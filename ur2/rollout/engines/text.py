"""Text at the engines' edge: decoding what was sampled, and finding the tokens that stop it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from ur2.errors import InputError


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that the engines use."""

    def decode(
        self,
        token_ids: Sequence[int],
        *,
        skip_special_tokens: bool,
        clean_up_tokenization_spaces: bool,
    ) -> str:
        """Token ids to text."""
        ...

    def get_added_vocab(self) -> Mapping[str, int]:
        """Added tokens: text that is always cut out as one token."""
        ...


def decode(tokenizer: Tokenizer, token_ids: Sequence[int]) -> str:
    """The text of `token_ids` with special tokens and spaces as they are."""
    return tokenizer.decode(
        token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )


def split_stops(
    tokenizer: Tokenizer, stop_strings: Iterable[str]
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Splits stop strings into (ids of those that are one added token, the others).

    An added token needs no decoding to be found. Only added tokens qualify: an ordinary token with
    the same text is one of several ways to spell it.
    """
    added = tokenizer.get_added_vocab()
    token_ids = tuple(added[text] for text in stop_strings if text in added)
    return token_ids, tuple(text for text in stop_strings if text not in added)


def load_tokenizer(model_path: str) -> Any:
    """The Hugging Face tokenizer of a model folder or name.

    Raises:
        InputError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model_path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"no tokenizer for model '{model_path}': {error}; "
            "give a folder with tokenizer files, or a model name that is at hand"
        ) from error


def generation_eos(model_path: str) -> tuple[int, ...]:
    """The end-of-turn ids of a model's generation config, beside its tokenizer's; often none."""
    from transformers import GenerationConfig

    try:
        token_ids = GenerationConfig.from_pretrained(model_path).eos_token_id
    except OSError:
        return ()
    if token_ids is None:
        return ()
    return tuple(token_ids) if isinstance(token_ids, list) else (int(token_ids),)

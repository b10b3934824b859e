"""Text at the engines' edge: decoding what was sampled, and finding the tokens that stop it."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ur2.errors import InputError
from ur2.rollout.engines.base import GenerationRequest


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


def stop_ids(tokenizer: Tokenizer, request: GenerationRequest) -> tuple[int, ...]:
    """The ids that end a request: its own, and those of stop strings that are one added token.

    An added token needs no decoding to be found. The stop strings must be looked for all the same,
    as a policy may spell them in other tokens.
    """
    added = tokenizer.get_added_vocab()
    marked = [added[text] for text in request.stop_strings if text in added]
    return tuple(dict.fromkeys([*request.stop_token_ids, *marked]))


def load_tokenizer(model_path: str, revision: str | None = None) -> Any:
    """The Hugging Face tokenizer of a model folder, or of a name and its revision.

    Raises:
        InputError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model_path, revision=revision)
    except (OSError, ValueError) as error:
        raise InputError(
            f"no tokenizer for model '{model_path}': {error}; "
            "give a folder with tokenizer files, or a model name that is at hand"
        ) from error


def generation_eos(model_path: str, revision: str | None = None) -> tuple[int, ...]:
    """The end-of-turn ids of a model's generation config, beside its tokenizer's; often none."""
    from transformers import GenerationConfig

    try:
        token_ids = GenerationConfig.from_pretrained(model_path, revision=revision).eos_token_id
    except OSError:
        return ()
    if token_ids is None:
        return ()
    return tuple(token_ids) if isinstance(token_ids, list) else (int(token_ids),)

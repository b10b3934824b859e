"""A tiny model made from nothing: tokenizer trained on given texts, weights drawn from a seed.

The folder loads in transformers and in vllm like any downloaded model. Its LM head is untied.
Importing this module is light, as the configuration does it; torch loads in `make_model`.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from ur2.errors import InputError
from ur2.options import Options

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen2Config

Count = Annotated[int, Field(ge=1)]

END = "<|end|>"
UNKNOWN = "<|unknown|>"
PAD = "<|pad|>"
CHAT_TOKENS = (PAD, UNKNOWN, END, "<|system|>", "<|user|>", "<|assistant|>")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


class ScratchOptions(Options):
    """Shape of a model made from nothing."""

    vocab_size: Count = 2048
    """Tokens, the special ones included."""
    hidden_size: Count = 128
    """Width of the residual stream."""
    num_layers: Count = 3
    """Transformer blocks; copying a name needs at least two."""
    num_heads: Count = 4
    """Attention heads, each with its own keys and values."""
    intermediate_size: Count = 384
    """Width inside the MLP."""
    max_positions: Count = 512
    """Longest sequence, in tokens."""
    rope_theta: float = 10000.0
    """Base of the rotary position frequencies."""
    initializer_range: Annotated[float, Field(gt=0)] = 0.02
    """Standard deviation of the initial weights."""
    special_tokens: tuple[str, ...] = (
        "<search>",
        "</search>",
        "<information>",
        "</information>",
        "<answer>",
        "</answer>",
    )
    """The protocol's markers; each is one token and swallows the spaces around it."""


def make_model(options: ScratchOptions, texts: Iterable[str], out: str, seed: int) -> None:
    """Writes a float32 Qwen2 folder to `out`, all of it or nothing.

    Args:
        options: the model's shape and its special tokens.
        texts: what the tokenizer is trained on, without markers.
        out: the folder; an existing one is replaced.
        seed: decides the weights.

    Raises:
        InputError: the heads do not divide the width, or `out` cannot be written.
    """
    import torch
    from transformers import GenerationConfig, Qwen2ForCausalLM

    if options.hidden_size % options.num_heads:
        raise InputError(
            f"scratch model: hidden_size {options.hidden_size} is no multiple of "
            f"num_heads {options.num_heads}; choose one that is"
        )
    tokenizer = train_tokenizer(options, texts)
    config = _config(options, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config).to(torch.float32)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    folder = Path(out)
    partial = folder.with_name(f".partial-{folder.name}")
    try:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def train_tokenizer(options: ScratchOptions, texts: Iterable[str]) -> "PreTrainedTokenizerFast":
    """Byte-pair encoding in which a name has one spelling in tokens wherever it stands.

    Spaces belong to the word after them and the first word gets one too; digits and punctuation
    stand alone.
    """
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="always"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Punctuation(behavior="isolated"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    special = [
        AddedToken(token, special=True, normalized=False, lstrip=True, rstrip=True)
        for token in (*CHAT_TOKENS, *options.special_tokens)
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=options.vocab_size, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        additional_special_tokens=list(options.special_tokens),
        chat_template=CHAT_TEMPLATE,
        model_max_length=options.max_positions,
        clean_up_tokenization_spaces=False,
    )


def _config(options: ScratchOptions, tokenizer: "PreTrainedTokenizerFast") -> "Qwen2Config":
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=options.vocab_size,
        hidden_size=options.hidden_size,
        intermediate_size=options.intermediate_size,
        num_hidden_layers=options.num_layers,
        num_attention_heads=options.num_heads,
        num_key_value_heads=options.num_heads,
        max_position_embeddings=options.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": options.rope_theta},
        initializer_range=options.initializer_range,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )

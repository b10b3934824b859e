"""A tiny model made from nothing: tokenizer trained on given texts, weights drawn from a seed.

The folder loads in transformers and in vllm like any downloaded model. Its LM head is untied. It is
a Llama with attention biases, which is Qwen2's architecture in all but name: what loads Qwen2
folders replaces the tokenizer's way of splitting words by Qwen2's own.
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
    from torch import Tensor
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

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
    copying_start: bool = True
    """Start with heads that copy (`start_copying`); needs two layers and two heads."""
    special_tokens: tuple[str, ...] = (
        "<search>",
        "</search>",
        "<information>",
        "</information>",
        "<answer>",
        "</answer>",
    )
    """The dialect's markers; each is one token and swallows the spaces around it."""


def make_model(options: ScratchOptions, texts: Iterable[str], out: str, seed: int) -> None:
    """Writes a float32 model folder to `out`, all of it or nothing.

    Args:
        options: the model's shape and its special tokens.
        texts: what the tokenizer is trained on, without markers.
        out: the folder; an existing one is replaced.
        seed: decides the weights.

    Raises:
        InputError: the heads do not divide the width, or `out` cannot be written.
    """
    import torch
    from transformers import GenerationConfig, LlamaForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # a model this small is written at once
    if options.hidden_size % (2 * options.num_heads):
        raise InputError(
            f"scratch model: hidden_size {options.hidden_size} must be an even multiple of "
            f"num_heads {options.num_heads}; choose such a width"
        )
    tokenizer = train_tokenizer(options, texts)
    config = _config(options, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).to(torch.float32)
        if options.copying_start and options.num_layers > 1 and options.num_heads > 1:
            start_copying(model)
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


def start_copying(model: "LlamaForCausalLM") -> None:
    """Sets some heads to the circuit that copies a name (Olsson et al. 2022, induction heads).

    Random weights find this circuit only after millions of tokens; from here it is learned in a few
    hundred thousand. A start in the spirit of Trockman & Kolter 2023: all of it is trained on.

    - Layer 0, heads 0 and 1 look one token back, by biases alone. Rotary positions turn the query
      at i by i·θ and the key at j by j·θ, so a query bias turned back by θ scores
      Σ_f cos((i-j-1)·θ_f), highest at j = i-1. They write A_h e(j), of the token they see, into a
      subspace B_h.
    - Layer 1, heads 0 and 1 ask with A_h e(i) for keys B_h: tokens that follow an earlier e(i), and
      write what they find back along the axes they read it from.
    - The LM head starts equal to the embedding, so that what is written back is what is said.
    """
    import torch

    config = model.config
    size = config.hidden_size // config.num_attention_heads
    theta = config.rope_parameters["rope_theta"] ** (-torch.arange(0, size, 2) / size)
    reach = _POSITION_STRENGTH * (theta > _FAST_ROTATION)
    back, ask = (layer.self_attn for layer in model.model.layers[:2])
    with torch.no_grad():
        for head in range(2):
            rows = slice(head * size, (head + 1) * size)
            read, write, copy = (_axes(size, config.hidden_size) for _ in range(3))
            back.k_proj.bias[rows] = torch.cat([reach, torch.zeros_like(reach)])
            back.q_proj.bias[rows] = torch.cat([reach * theta.cos(), -reach * theta.sin()])
            back.v_proj.weight[rows] = _WRITE_STRENGTH * read
            back.o_proj.weight[:, rows] = write.T
            ask.q_proj.weight[rows] = _MATCH_STRENGTH * read
            ask.k_proj.weight[rows] = _MATCH_STRENGTH * write
            ask.v_proj.weight[rows] = 2 * _WRITE_STRENGTH * copy
            ask.o_proj.weight[:, rows] = copy.T
        model.lm_head.weight.copy_(model.model.embed_tokens.weight)


_POSITION_STRENGTH = 5.0
_FAST_ROTATION = 0.15
"""Radians per token from which a rotary frequency tells neighbours apart."""
_WRITE_STRENGTH = 0.03
_MATCH_STRENGTH = 1.0


def _axes(num: int, width: int) -> "Tensor":
    """Random orthonormal rows, (num, width)."""
    import torch

    axes: Tensor = torch.linalg.qr(torch.randn(width, num))[0].T
    return axes


def _config(options: ScratchOptions, tokenizer: "PreTrainedTokenizerFast") -> "LlamaConfig":
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=options.vocab_size,
        hidden_size=options.hidden_size,
        intermediate_size=options.intermediate_size,
        num_hidden_layers=options.num_layers,
        num_attention_heads=options.num_heads,
        num_key_value_heads=options.num_heads,
        max_position_embeddings=options.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": options.rope_theta},
        initializer_range=options.initializer_range,
        attention_bias=True,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )

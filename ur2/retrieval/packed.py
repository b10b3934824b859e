"""A BERT over many short texts at once, without padding; on a CPU, where padding costs the most.

All tokens of all texts form one matrix, which every linear layer sees as a whole; only attention is
computed text by text, those of one length together. The result is the model's own, up to rounding.

Shapes: _N texts, _T tokens of all texts, _D width.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

MAX_TOKENS = 16_384
"""In one pass, which bounds its memory."""


class PackedEncoder:
    """The forward pass of a sentence-transformers model that `supports` accepts."""

    def __init__(self, model: Any) -> None:
        """Shares the weights of `model`."""
        self._bert = model[0].auto_model
        self._mean = model[1].pooling_mode == "mean"
        # A copy: the model sets padding and truncation on its own.
        self._tokenizer = Tokenizer.from_str(model.tokenizer.backend_tokenizer.to_str())
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(model.max_seq_length)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors of the texts: (N,) -> (N, D)."""
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]
        order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
        vector_ND = torch.empty(len(ids), self._bert.config.hidden_size)
        for part in _parts(order, ids):
            vector_ND[part] = self._encode([ids[number] for number in part]).float()
        return functional.normalize(vector_ND, dim=1)

    def _encode(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """One pass over texts that are sorted by length."""
        lengths = [len(text) for text in ids]
        id_T = torch.tensor([token for text in ids for token in text])
        place_T = torch.cat([torch.arange(length) for length in lengths])
        state_TD = self._bert.embeddings(
            id_T[None], token_type_ids=torch.zeros_like(id_T)[None], position_ids=place_T[None]
        )[0]
        groups = [(length, len(list(same))) for length, same in groupby(lengths)]
        for layer in self._bert.encoder.layer:
            attention = layer.attention
            found_TD = self._attend(attention.self, state_TD, groups)
            state_TD = attention.output(found_TD, state_TD)
            state_TD = layer.output(layer.intermediate(state_TD), state_TD)
        texts = torch.split(state_TD, lengths)
        return torch.stack([text.mean(0) if self._mean else text[0] for text in texts])

    def _attend(self, attention: Any, state_TD: Tensor, groups: list[tuple[int, int]]) -> Tensor:
        num_heads = self._bert.config.num_attention_heads
        projected = [layer(state_TD) for layer in (attention.query, attention.key, attention.value)]
        sizes = [length * number for length, number in groups]
        found = []
        for (length, number), *parts in zip(
            groups, *(torch.split(whole, sizes) for whole in projected), strict=True
        ):
            query, key, value = (
                part.view(number, length, num_heads, -1).transpose(1, 2) for part in parts
            )
            mixed = functional.scaled_dot_product_attention(query, key, value)
            found.append(mixed.transpose(1, 2).reshape(number * length, -1))
        return torch.cat(found)


def supports(model: Any) -> bool:
    """Whether a sentence-transformers model is a BERT on a CPU, pooled by mean or first token."""
    names = [type(module).__name__ for module in model]
    return (
        names in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
        and model.device.type == "cpu"
        and type(model[0].auto_model).__name__ == "BertModel"
        and not model[0].do_lower_case
        and model[1].pooling_mode in ("mean", "cls")
    )


def _parts(order: Sequence[int], ids: Sequence[Sequence[int]]) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    num_tokens = 0
    for number in order:
        num_tokens += len(ids[number])
        if num_tokens > MAX_TOKENS and parts[-1]:
            parts.append([])
            num_tokens = len(ids[number])
        parts[-1].append(number)
    return [part for part in parts if part]

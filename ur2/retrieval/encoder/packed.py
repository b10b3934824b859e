"""A BERT over many short texts at once, without padding; on a CPU, where padding costs the most.

All tokens of all texts form one matrix, which every linear layer sees as a whole; only attention is
computed text by text, those of like length together. The result is the model's own, up to rounding.

Shapes: _N texts, _T tokens of all texts, _D width, _I and _O what goes into a layer and comes out.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ur2 import processor
from ur2.retrieval.encoder.bert import Bert

MAX_TOKENS = 16_384
"""In one pass, which bounds its memory."""
SHORT, PADDING = 64, 4
"""Texts of up to so many tokens get attention by plain products, padded to a multiple of these."""
TYPICAL_TOKENS = 1024
"""In one pass, for which weights are laid out best."""


class PackedEncoder:
    """The forward pass; linear layers and attention in a short arithmetic, the rest in float32."""

    def __init__(self, bert: Bert, precision: torch.dtype) -> None:
        """Copies the weights, which may be mapped from a file, in the form that is fastest."""
        self._layers = [
            _Layer(bert, f"encoder.layer.{number}", precision) for number in range(bert.num_layers)
        ]
        tables = [f"embeddings.{name}_embeddings.weight" for name in ("word", "position")]
        self._word, self._position = (bert.weights[name].float().clone() for name in tables)
        self._type_D = bert.weights["embeddings.token_type_embeddings.weight"][0].float().clone()
        self._norm = _Norm(bert, "embeddings.LayerNorm")
        self._tokenizer, self._mean = bert.tokenizer, bert.pooling == "mean"
        self._num_heads = bert.num_heads

    @property
    def dimension(self) -> int:
        """D."""
        return len(self._type_D)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors of the texts: (N,) -> (N, D)."""
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]
        order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
        vector_ND = torch.empty(len(ids), self.dimension)
        for part in _parts(order, ids):
            vector_ND[part] = self._encode([ids[number] for number in part])
        return functional.normalize(vector_ND, dim=1)

    def _encode(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """One pass over texts that are sorted by length."""
        lengths = [len(text) for text in ids]
        id_T = torch.tensor([token for text in ids for token in text])
        place_T = torch.cat([torch.arange(length) for length in lengths])
        state_TD = functional.embedding(id_T, self._word)
        state_TD += self._position[place_T]
        state_TD = self._norm(state_TD.add_(self._type_D))
        groups = _Groups(lengths, self._num_heads)
        for layer in self._layers:
            state_TD = layer(state_TD, groups)
        texts = torch.split(state_TD, lengths)
        return torch.stack([text.mean(0) if self._mean else text[0] for text in texts])


class _Layer:
    """(T, D) -> (T, D)."""

    def __init__(self, bert: Bert, name: str, precision: torch.dtype) -> None:
        asking = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
        self._project = _Linear(bert, asking, precision)
        self._mix = _Linear(bert, [f"{name}.attention.output.dense"], precision)
        self._mix_norm = _Norm(bert, f"{name}.attention.output.LayerNorm")
        self._widen = _Linear(bert, [f"{name}.intermediate.dense"], precision)
        self._narrow = _Linear(bert, [f"{name}.output.dense"], precision)
        self._norm = _Norm(bert, f"{name}.output.LayerNorm")
        self._num_heads, self._precision = bert.num_heads, precision

    def __call__(self, state_TD: Tensor, groups: "_Groups") -> Tensor:
        found_TD = self._mix(self._attend(self._project(state_TD.to(self._precision)), groups))
        state_TD = self._mix_norm(state_TD.add_(found_TD))
        wide_TI = self._widen(state_TD.to(self._precision), gelu=True)
        return self._norm(state_TD.add_(self._narrow(wide_TI)))

    def _attend(self, projected: Tensor, groups: "_Groups") -> Tensor:
        found, width = [], projected.shape[1] // (3 * self._num_heads)
        for group in groups.all:
            part = projected.index_select(0, group.rows)
            asked = part.view(group.number, -1, 3, self._num_heads, width)
            mixed = _attend(asked.permute(2, 0, 3, 1, 4), group.bias)
            found.append(mixed.transpose(1, 2).flatten(2).flatten(0, 1))
        return torch.cat(found).index_select(0, groups.place_T).to(self._precision)


class _Group(NamedTuple):
    """Texts that attention sees at once, all of the same length."""

    number: int
    rows: Tensor
    """Where the tokens are; what is missing at the end of a text is its last token again."""
    bias: Tensor | None
    """(number * heads, 1, length): what keeps tokens from seeing those; None where texts are long
    and of one length."""


class _Groups:
    """The texts of a pass, which are sorted by length."""

    def __init__(self, lengths: Sequence[int], num_heads: int) -> None:
        self.all: list[_Group] = []
        places = []
        start = num_before = 0
        for size, same in groupby(lengths, key=_padded):
            own = torch.tensor(list(same))
            first = start + own.cumsum(0) - own
            step = torch.arange(size)
            is_own = step < own[:, None]
            rows = (first[:, None] + torch.minimum(step, own[:, None] - 1)).flatten()
            bias = None
            if size <= SHORT:
                hidden = torch.zeros(is_own.shape).masked_fill_(~is_own, -torch.inf)
                bias = hidden.repeat_interleave(num_heads, 0)[:, None]
            self.all.append(_Group(len(own), rows, bias))
            places.append(num_before + is_own.flatten().nonzero()[:, 0])
            start, num_before = start + int(own.sum()), num_before + len(rows)
        self.place_T = torch.cat(places)
        """The place of each token among the rows of all groups."""


def _padded(length: int) -> int:
    """Fewer, larger groups keep a thread from waiting for the interpreter's lock so often."""
    return -(-length // PADDING) * PADDING if length <= SHORT else length


def _attend(asked: Tensor, bias: Tensor | None) -> Tensor:
    """Queries, keys and values, (3, texts, heads, tokens, width) -> (texts, heads, tokens, width).

    Plain products in float32 are twice as fast for texts of a line as the kernel for long ones.
    """
    if bias is None:
        query, key, value = asked
        return functional.scaled_dot_product_attention(query, key, value)
    whole = asked.to(torch.float32, memory_format=torch.contiguous_format)
    query, key, value = whole.flatten(1, 2)
    score = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=query.shape[2] ** -0.5)
    return torch.bmm(score.softmax(dim=-1), value).view(whole.shape[1:])


class _Linear:
    """(T, I) -> (T, O); several layers with the same input are one."""

    def __init__(self, bert: Bert, names: Sequence[str], precision: torch.dtype) -> None:
        weights = [bert.weights[f"{name}.weight"] for name in names]
        biases = [bert.weights[f"{name}.bias"] for name in names]
        self._weight_OI, self._bias_O = (
            torch.cat(weights).to(precision),
            torch.cat(biases).to(precision),
        )
        # Else the weights are laid out anew for every product, which costs a fifth of it.
        has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        name = str(precision).removeprefix("torch.")
        self._laid_out = has_onednn and processor.onednn_lays_out(name)
        self._fuses = precision is torch.bfloat16
        """Whether oneDNN's own gelu is the faster one; in float32 torch's takes half the time."""
        if self._laid_out:
            reorder = torch.ops.mkldnn._reorder_linear_weight
            self._weight_OI = reorder(self._weight_OI, TYPICAL_TOKENS)

    def __call__(self, state_TI: Tensor, *, gelu: bool = False) -> Tensor:
        fused = gelu and self._laid_out and self._fuses
        if self._laid_out:
            after = "gelu" if fused else "none"
            product = torch.ops.mkldnn._linear_pointwise
            state_TO: Tensor = product(state_TI, self._weight_OI, self._bias_O, after, [], "none")
        else:
            state_TO = functional.linear(state_TI, self._weight_OI, self._bias_O)
        return functional.gelu(state_TO) if gelu and not fused else state_TO


class _Norm:
    """(T, D) -> (T, D)."""

    def __init__(self, bert: Bert, name: str) -> None:
        self._weight_D = bert.weights[f"{name}.weight"].float().clone()
        self._bias_D = bert.weights[f"{name}.bias"].float().clone()
        self._eps = bert.norm_eps

    def __call__(self, state_TD: Tensor) -> Tensor:
        width = self._weight_D.shape
        return functional.layer_norm(state_TD, width, self._weight_D, self._bias_D, self._eps)


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

"""Continuous batching on a transformers model: rows join and leave between decoding steps.

Shapes: B rows in the batch, T positions of the key-value cache (left-padded), V vocabulary.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from ur2.rollout.engines.base import Finish, GenerationRequest
from ur2.rollout.engines.text import Tokenizer, decode


@dataclass(slots=True, eq=False)
class RunningRequest:
    """One request on its way; owned by the batch between admission and finish."""

    request: GenerationRequest
    stop_token_ids: frozenset[int]
    generator: torch.Generator
    token_ids: list[int] = field(default_factory=list)
    """Sampled so far."""
    versions: list[int] = field(default_factory=list)
    """The weights that sampled each token."""
    logprobs: list[float] = field(default_factory=list)
    abandoned: bool = False
    """Nobody waits for it any more."""

    @property
    def context(self) -> list[int]:
        """Everything the model has seen or is to see."""
        return [*self.request.token_ids, *self.token_ids]

    def finish(self, tokenizer: Tokenizer) -> Finish | None:
        """Why sampling ends here, or None. A stop on the last token of the budget is a stop."""
        if self.token_ids[-1] in self.stop_token_ids:
            return "stop"
        if self.request.stop_strings and self._ends_with_stop_string(tokenizer):
            return "stop"
        return "length" if len(self.token_ids) == self.request.max_tokens else None

    def _ends_with_stop_string(self, tokenizer: Tokenizer) -> bool:
        # Every token but a special one holds at least a byte, so the newest token completes a stop
        # string within this window or not at all.
        stop_strings = self.request.stop_strings
        window = max(len(text.encode()) for text in stop_strings) + 4
        tail = decode(tokenizer, self.token_ids[-window:])
        return any(text in tail for text in stop_strings)


class DecodingBatch:
    """The rows being decoded with their cache; not thread-safe, one `step` at a time."""

    def __init__(self, model: Any, tokenizer: Tokenizer) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self.rows: list[RunningRequest] = []
        self._cache: DynamicCache | None = None
        self._mask_BT: Tensor = torch.zeros(0, 0, dtype=torch.long)

    @torch.inference_mode()
    def step(
        self, admitted: list[RunningRequest], weight_version: int
    ) -> list[tuple[RunningRequest, Finish]]:
        """Admits rows, samples one token for every row, removes and returns the finished ones."""
        self._keep([row for row in self.rows if not row.abandoned])
        logits = []
        if self.rows:
            logits.append(self._decode())
        if admitted:
            logits.append(self._admit(admitted))
        if not logits:
            return []
        token_B, logprob_B = sample(torch.cat(logits), self.rows)
        finished = []
        for row, token, logprob in zip(
            self.rows, token_B.tolist(), logprob_B.tolist(), strict=True
        ):
            row.token_ids.append(token)
            row.versions.append(weight_version)
            row.logprobs.append(logprob)
            if (finish := row.finish(self._tokenizer)) is not None:
                finished.append((row, finish))
        done = {id(row) for row, _ in finished}
        self._keep([row for row in self.rows if id(row) not in done])
        return finished

    def evict(self) -> list[RunningRequest]:
        """Empties the batch, cache included; the rows can be admitted again with their tokens."""
        rows, self.rows, self._cache = self.rows, [], None
        return rows

    def _decode(self) -> Tensor:
        """Feeds each row's newest token; returns its next logits, (B, V)."""
        last_B1 = torch.tensor([[row.token_ids[-1]] for row in self.rows], device=self._device)
        self._mask_BT = functional.pad(self._mask_BT, (0, 1), value=1)
        return self._forward(last_B1, self._mask_BT, self._cache)

    def _admit(self, rows: list[RunningRequest]) -> Tensor:
        """Feeds the contexts of joining rows and merges their cache; returns logits, (B, V)."""
        length = max(len(row.context) for row in rows)
        padded = [[0] * (length - len(row.context)) + row.context for row in rows]
        real = [[0] * (length - len(row.context)) + [1] * len(row.context) for row in rows]
        mask_BT = torch.tensor(real, device=self._device)
        cache = DynamicCache()
        logits_BV = self._forward(torch.tensor(padded, device=self._device), mask_BT, cache)
        if self._cache is None or not self.rows:
            self._cache, self._mask_BT = cache, mask_BT
        else:
            self._merge(self._cache, cache, mask_BT)
        self.rows = [*self.rows, *rows]
        return logits_BV

    def _forward(self, token_BT: Tensor, mask_BT: Tensor, cache: DynamicCache | None) -> Tensor:
        position_BT = (mask_BT.cumsum(-1) - 1).clamp(min=0)[:, -token_BT.shape[1] :]
        out = self._model(
            input_ids=token_BT,
            attention_mask=mask_BT,
            position_ids=position_BT,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits_BV: Tensor = out.logits[:, -1].float()
        return logits_BV

    def _merge(self, cache: DynamicCache, joining: DynamicCache, mask_BT: Tensor) -> None:
        length = max(self._mask_BT.shape[1], mask_BT.shape[1])
        for layer, other in zip(cache.layers, joining.layers, strict=True):
            layer.keys = torch.cat([_pad(layer.keys, length), _pad(other.keys, length)])
            layer.values = torch.cat([_pad(layer.values, length), _pad(other.values, length)])
        masks = (self._mask_BT, mask_BT)
        self._mask_BT = torch.cat([functional.pad(m, (length - m.shape[1], 0)) for m in masks])

    def _keep(self, rows: list[RunningRequest]) -> None:
        """Drops all other rows, and the left padding that no row needs any more."""
        if len(rows) == len(self.rows):
            return
        kept = {id(row) for row in rows}
        index = [i for i, row in enumerate(self.rows) if id(row) in kept]
        self.rows = rows
        if not rows or self._cache is None:
            self._cache = None
            return
        mask_BT = self._mask_BT[index]
        start = int(mask_BT.any(0).long().argmax())
        self._mask_BT = mask_BT[:, start:]
        for layer in self._cache.layers:
            layer.keys = layer.keys[index][:, :, start:]
            layer.values = layer.values[index][:, :, start:]

    @property
    def _device(self) -> torch.device:
        device: torch.device = self._model.device
        return device


def sample(logits_BV: Tensor, rows: list[RunningRequest]) -> tuple[Tensor, Tensor]:
    """Draws one token per row by inverse CDF, each row from its own generator.

    A row's draw depends on its generator and its logits, not on the rows beside it.

    Returns:
        Token ids and their log-probabilities in the distribution drawn from, (B,) and (B,).
    """
    device = logits_BV.device
    temperature_B = torch.tensor([r.request.temperature for r in rows], device=device)
    greedy_B = temperature_B == 0
    scaled_BV = _allow(logits_BV, rows) / torch.where(greedy_B, 1.0, temperature_B)[:, None]
    logprob_BV = _filter(scaled_BV, rows).log_softmax(-1)
    uniform = [torch.rand((), generator=r.generator, dtype=torch.float64) for r in rows]
    cdf_BV = logprob_BV.double().exp().cumsum(-1)
    target_B1 = torch.stack(uniform).to(device)[:, None] * cdf_BV[:, -1:]
    drawn_B = torch.searchsorted(cdf_BV, target_B1, right=True)[:, 0]
    drawn_B = drawn_B.clamp(max=logits_BV.shape[1] - 1)
    token_B = torch.where(greedy_B, logprob_BV.argmax(-1), drawn_B)
    return token_B, logprob_BV.gather(1, token_B[:, None])[:, 0]


def _allow(logits_BV: Tensor, rows: list[RunningRequest]) -> Tensor:
    """Minus infinity outside the ids that each row allows."""
    allowed = [row.request.allowed_token_ids for row in rows]
    if not any(allowed):
        return logits_BV
    refused_BV = torch.zeros_like(logits_BV, dtype=torch.bool)
    for refused_V, token_ids in zip(refused_BV, allowed, strict=True):
        if token_ids:
            refused_V.fill_(True)
            refused_V[list(token_ids)] = False
    return logits_BV.masked_fill(refused_BV, float("-inf"))


def _filter(logits_BV: Tensor, rows: list[RunningRequest]) -> Tensor:
    """Minus infinity outside each row's top_k and top_p; they cut nothing where it is greedy."""
    limits = [(r.request.top_k, r.request.top_p) if r.request.temperature else (0, 1) for r in rows]
    if all(limit == (0, 1) for limit in limits):
        return logits_BV
    device, vocabulary = logits_BV.device, logits_BV.shape[1]
    top_k_B1 = torch.tensor([[top_k or vocabulary] for top_k, _ in limits], device=device)
    top_p_B1 = torch.tensor([[float(top_p)] for _, top_p in limits], device=device)
    sorted_BV, order_BV = logits_BV.sort(descending=True, dim=-1)
    sorted_BV = sorted_BV.masked_fill(
        torch.arange(vocabulary, device=device) >= top_k_B1, float("-inf")
    )
    prob_BV = sorted_BV.softmax(-1)
    before_BV = prob_BV.cumsum(-1) - prob_BV
    # Where top_p is off, rounding of the running sum must not cut the tail.
    sorted_BV = sorted_BV.masked_fill((before_BV >= top_p_B1) & (top_p_B1 < 1), float("-inf"))
    return torch.empty_like(logits_BV).scatter(1, order_BV, sorted_BV)


def _pad(tensor: Tensor, length: int) -> Tensor:
    """Zeros before the positions of a (B, heads, T, D) cache tensor, up to `length`."""
    return functional.pad(tensor, (0, 0, length - tensor.shape[2], 0))

"""Causal attention within each sequence of a packed row, for any model with exchangeable attention.

Shapes: 1 row, _H heads, _T tokens of all sequences end to end, _D width of a head, _S sequences.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from ur2.errors import InputError

PACKED = "ur2_packed"
"""The name under which transformers finds this attention."""
LAYER_TYPES = {"full_attention", "sliding_attention"}
UNKNOWN_TERMS = ("softcap", "s_aux", "position_bias")
"""Terms that some models add to the scores, and this attention does not compute."""


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    lengths: Sequence[int],
    offset_S: Tensor,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **terms: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls in each layer. (1, H, T, D) three times -> (1, T, H, D).

    Args:
        module: the attention layer.
        query: all heads.
        key: as many heads, or a divisor of them.
        value: like `key`.
        attention_mask: none; `lengths` say all.
        lengths: of the sequences; they add up to T.
        offset_S: where each begins, and T, (S + 1,) int32.
        scaling: of the scores; 1/√D if none.
        sliding_window: tokens that a token sees, itself included; all before it if none.
        terms: further arguments, of which none may change the scores.
    """
    for name in UNKNOWN_TERMS:
        if terms.get(name) is not None:
            raise InputError(
                f"model.path: attention of {type(module).__name__} uses {name}, which packed "
                "attention does not compute; use another model"
            )
    device = query.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        return _fused(query, key, value, lengths, offset_S, scaling, sliding_window), None
    queries, keys, values = (torch.split(t, list(lengths), dim=2) for t in (query, key, value))
    outputs = [
        _alone(q, k, v, scaling, sliding_window)
        for q, k, v in zip(queries, keys, values, strict=True)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def use_packed_attention(lm: PreTrainedModel) -> None:
    """Makes `lm` read packed rows.

    Raises:
        InputError: its layers let tokens meet in other ways than attention that can be exchanged.
    """
    kind = type(lm).__name__
    others = set(getattr(lm.config.get_text_config(), "layer_types", None) or ()) - LAYER_TYPES
    if others:
        raise InputError(
            f"model.path: {kind} has layers of type {', '.join(sorted(others))}, which cannot keep "
            "packed sequences apart; use a model with attention only"
        )
    lm.set_attn_implementation(PACKED)
    if lm.config.get_text_config()._attn_implementation != PACKED:
        raise InputError(
            f"model.path: the attention of {kind} cannot be exchanged, so sequences cannot be "
            "packed; use a model that supports transformers' attention interface"
        )


def _alone(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None
) -> Tensor:
    """One sequence, (1, H, n, D)."""
    length = query.shape[2]
    if window is None or length <= window:
        mask = None
    else:
        full = torch.ones(length, length, dtype=torch.bool, device=query.device)
        mask = full.tril().triu(1 - window)
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Sequence[int],
    offset_S: Tensor,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """All sequences in one call of flash attention."""
    from torch.nn.attention.varlen import varlen_attn

    query_THD, key_THD, value_THD = (t[0].transpose(0, 1) for t in (query, key, value))
    longest = max(lengths)
    output_THD = varlen_attn(
        query_THD,
        key_THD,
        value_THD,
        offset_S,
        offset_S,
        longest,
        longest,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query_THD.shape[1] != key_THD.shape[1],
    )
    assert isinstance(output_THD, Tensor)  # and nothing beside it, as nothing else was asked for
    return output_THD[None]


AttentionInterface.register(PACKED, packed_attention)

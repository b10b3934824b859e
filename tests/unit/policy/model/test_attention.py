"""A packed row computes what each of its sequences computes alone, for every model."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from ur2.errors import InputError
from ur2.policy.batch.microbatch import make_row
from ur2.policy.model.attention import _fused, packed_attention, use_packed_attention
from ur2.policy.model.models import hidden_states

CPU = torch.device("cpu")
SIZE = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "initializer_range": 0.3,
}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**{**SIZE, "num_key_value_heads": 4})),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZE)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZE, head_dim=16)),
    "sliding": lambda: MistralForCausalLM(MistralConfig(**SIZE, sliding_window=5)),
}
LENGTHS = [9, 1, 14, 2, 1, 6]


def make_model(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return MODELS[name]()


def sequences(lengths: list[int]) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 50, n) for n in lengths]


def alone(lm: PreTrainedModel, ids: list[np.ndarray]) -> list[Tensor]:
    """By transformers' own attention, one sequence at a time."""
    lm.set_attn_implementation("eager")
    body = lm.get_decoder()
    return [body(torch.from_numpy(i)[None], use_cache=False).last_hidden_state[0] for i in ids]


def packed(lm: PreTrainedModel, ids: list[np.ndarray]) -> list[Tensor]:
    use_packed_attention(lm)
    return list(hidden_states(lm, make_row(ids, CPU)).split([len(i) for i in ids]))


def gradients(lm: PreTrainedModel, outputs: list[Tensor]) -> list[Tensor]:
    """Of a sum with weights that differ from place to place."""
    loss = sum((h * torch.arange(h.numel()).view_as(h).sin()).sum() for h in outputs)
    return list(torch.autograd.grad(loss, list(lm.get_decoder().parameters())))


@pytest.mark.parametrize("name", MODELS)
def test_a_row_equals_its_sequences_alone_in_value_and_gradient(name: str) -> None:
    lm, ids = make_model(name), sequences(LENGTHS)
    expected = alone(lm, ids)
    expected_gradients = gradients(lm, expected)
    found = packed(lm, ids)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    for one, other in zip(gradients(lm, found), expected_gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 * float(other.abs().max()), rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_no_token_reaches_another_sequence(name: str) -> None:
    lm, ids = make_model(name), sequences(LENGTHS)
    before = packed(lm, ids)
    changed = [i if number == 2 else (i + 1) % 50 for number, i in enumerate(ids)]
    after = packed(lm, changed)
    assert torch.equal(before[2], after[2])
    assert not torch.equal(before[0], after[0])


def test_the_order_of_sequences_does_not_matter() -> None:
    lm, ids = make_model("qwen2"), sequences(LENGTHS)
    for one, other in zip(packed(lm, ids), packed(lm, ids[::-1])[::-1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_recomputing_layers_changes_nothing() -> None:
    lm, ids = make_model("qwen2"), sequences(LENGTHS)
    expected = gradients(lm, packed(lm, ids))
    lm.gradient_checkpointing_enable({"use_reentrant": False})
    lm.train()
    for one, other in zip(gradients(lm, packed(lm, ids)), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_computing_in_bf16_on_fp32_weights_keeps_sequences_apart() -> None:
    lm, ids = make_model("qwen2"), sequences(LENGTHS)
    exact = alone(lm, ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = packed(lm, ids)
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one.float(), other, atol=0.15, rtol=0.05)


def test_models_whose_tokens_meet_elsewhere_are_refused() -> None:
    lm = MambaForCausalLM(MambaConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1))
    with pytest.raises(InputError, match=r"Mamba.*packed"):
        use_packed_attention(lm)


def test_scores_with_a_term_that_is_not_computed_are_refused() -> None:
    part = torch.zeros(1, 2, 3, 4)
    with pytest.raises(InputError, match="softcap"):
        packed_attention(
            torch.nn.Identity(), part, part, part, None,
            lengths=(3,), offset_S=torch.tensor([0, 3]), softcap=50.0,
        )  # fmt: skip


def varlen_by_its_documentation(
    query: Tensor, key: Tensor, value: Tensor, offset_q: Tensor, offset_k: Tensor,
    max_q: int, max_k: int, *, scale: float, window_size: tuple[int, int], enable_gqa: bool,
) -> Tensor:  # fmt: skip
    """torch's `varlen_attn`, which has a GPU only: (T, H, D) -> (T, H, D)."""
    assert torch.equal(offset_q, offset_k)
    assert offset_q.dtype == torch.int32
    assert max_q == max_k == int(offset_q.diff().max())
    groups = query.shape[1] // key.shape[1]
    assert enable_gqa == (groups > 1)
    left, right = window_size
    assert right == 0
    rows = []
    for begin, end in zip(offset_q.tolist(), offset_q.tolist()[1:], strict=False):
        q, k, v = (t[begin:end].transpose(0, 1) for t in (query, key, value))
        k, v = k.repeat_interleave(groups, 0), v.repeat_interleave(groups, 0)
        distance = torch.arange(end - begin)[:, None] - torch.arange(end - begin)
        seen = (distance >= 0) & ((distance <= left) | (left == -1))
        scores = (q @ k.transpose(1, 2) * scale).masked_fill(~seen, -torch.inf)
        rows.append((scores.softmax(-1) @ v).transpose(0, 1))
    return torch.cat(rows)


@pytest.mark.parametrize("window", [None, 5])
def test_the_kernel_of_a_gpu_is_asked_for_the_same(
    window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", varlen_by_its_documentation)
    row = make_row(sequences(LENGTHS), CPU)
    query = torch.randn(1, 4, sum(LENGTHS), 8)
    key, value = torch.randn(2, 1, 2, sum(LENGTHS), 8)
    expected, _ = packed_attention(
        torch.nn.Identity(), query, key, value, None,
        lengths=row.lengths, offset_S=row.offset_S, scaling=0.3, sliding_window=window,
    )  # fmt: skip
    found = _fused(query, key, value, row.lengths, row.offset_S, 0.3, window)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)

"""Adapters: what they add, what they leave alone, and how they leave merged."""

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from transformers.models.llama import LlamaConfig

from ur2.errors import InputError
from ur2.policy.model.lora import adapters_off, add_adapters, weights_of
from ur2.policy.options import LoraOptions

SIZE = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 24,
}
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


def make_model(*, tied: bool = False) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    return Qwen2ForCausalLM(Qwen2Config(**SIZE, tie_word_embeddings=tied))


def trained(lm: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in lm.named_parameters() if p.requires_grad}


def move_adapters(lm: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in trained(lm).values():
            parameter.add_(torch.randn_like(parameter))


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_with_merged_weights_computes_what_the_adapted_one_does(tied: bool) -> None:
    lm = make_model(tied=tied)
    before = lm(IDS).logits
    add_adapters(lm, LoraOptions(rank=3, alpha=5.0), seed=0)
    torch.testing.assert_close(lm(IDS).logits, before)
    move_adapters(lm)
    after = lm(IDS).logits
    assert not torch.allclose(after, before, atol=0.01)
    merged = make_model(tied=tied)
    weights = {weight.name: weight.merged() for weight in weights_of(lm)}
    assert weights.keys() == dict(merged.named_parameters()).keys()
    merged.load_state_dict(weights, strict=not tied)
    torch.testing.assert_close(merged(IDS).logits, after, atol=1e-5, rtol=0)


def test_without_adapters_it_is_the_model_it_was() -> None:
    lm = make_model()
    before = lm(IDS).logits
    add_adapters(lm, LoraOptions(), seed=0)
    move_adapters(lm)
    after = lm(IDS).logits
    learning = trained(lm).keys()
    with adapters_off(lm):
        torch.testing.assert_close(lm(IDS).logits, before)
        assert trained(lm).keys() == learning
    assert torch.equal(lm(IDS).logits, after)


def test_only_adapters_of_named_layers_are_trained() -> None:
    lm = make_model()
    add_adapters(lm, LoraOptions(rank=2, targets=("q_proj", "v_proj")), seed=0)
    assert {name.split(".")[4] for name in trained(lm)} == {"q_proj", "v_proj"}
    assert all(".lora_" in name for name in trained(lm))


def test_all_ranks_begin_with_the_same_adapters() -> None:
    starts = []
    for noise in (1, 2):
        lm = make_model()
        torch.manual_seed(noise)
        add_adapters(lm, LoraOptions(), seed=7)
        starts.append(trained(lm))
    assert all(torch.equal(value, starts[1][name]) for name, value in starts[0].items())


def test_merged_half_precision_weights_keep_their_type() -> None:
    lm = LlamaForCausalLM(LlamaConfig(**SIZE)).to(torch.bfloat16)
    add_adapters(lm, LoraOptions(), seed=0)
    assert {weight.merged().dtype for weight in weights_of(lm)} == {torch.bfloat16}


@pytest.mark.parametrize("target", ["no_such_layer", "lm_head", "embed_tokens"])
def test_layers_that_cannot_have_adapters_are_refused_by_name(target: str) -> None:
    with pytest.raises(InputError, match=rf"policy\.lora\.targets.*{target}"):
        add_adapters(make_model(), LoraOptions(targets=("q_proj", target)), seed=0)

"""A model that computes something else here than in transformers is refused, with the reason."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MixtralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    RecurrentGemmaConfig,
    SeedOssConfig,
)

from ur2.errors import InputError
from ur2.policy.model.models import load_lm
from ur2.policy.model.probe import probe

SIZE = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 24,
    "initializer_range": 0.3,
}


def loaded(config: PreTrainedConfig, folder: Any, **options: bool) -> PreTrainedModel:
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    options = {"gradient_checkpointing": False, **options}
    return load_lm(str(folder), revision=None, dtype=torch.float32, **options)


def llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SIZE)).eval()


def hooked(change: Any) -> PreTrainedModel:
    """A Llama whose second layer ends in `change`."""
    lm = llama()
    lm.model.layers[1].register_forward_hook(lambda module, inputs, output: change(output))
    return lm


def test_what_computes_the_same_four_times_passes() -> None:
    probe(llama())


def test_what_is_random_is_refused() -> None:
    with pytest.raises(InputError, match=r"LlamaForCausalLM.*random"):
        probe(hooked(lambda x: x + 0.1 * torch.rand_like(x)))


def test_a_state_that_passes_between_packed_sequences_is_refused() -> None:
    with pytest.raises(InputError, match="passes between packed sequences"):
        probe(hooked(lambda x: x + x.cumsum(1)))


def test_logits_that_the_policy_would_leave_as_they_are_are_refused() -> None:
    class Capped(LlamaForCausalLM):
        def forward(self, *args: Any, **options: Any) -> Any:
            output = super().forward(*args, **options)
            output.logits = output.logits.tanh()
            return output

    with pytest.raises(InputError, match="plain transformers"):
        probe(Capped(LlamaConfig(**SIZE)).eval())


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InputError, match="nan apart"):
        probe(hooked(lambda x: x / 0 * 0))


@pytest.mark.parametrize(
    "config",
    [
        SeedOssConfig(**SIZE, head_dim=8, attention_dropout=0.1, residual_dropout=0.3),
        MixtralConfig(**SIZE, num_local_experts=4, router_jitter_noise=0.2),
    ],
    ids=lambda config: config.model_type,
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_randomness_that_a_family_has_in_training_is_off(
    config: PreTrainedConfig, checkpointing: bool, tmp_path: Any
) -> None:
    lm = loaded(config, tmp_path, gradient_checkpointing=checkpointing)
    probe(lm)
    assert not any(isinstance(m, nn.Dropout) and m.training for m in lm.modules())


@pytest.mark.parametrize(
    "config",
    [
        MambaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, state_size=4),
        RecurrentGemmaConfig(**{**SIZE, "num_key_value_heads": 1}, lru_width=32),
        Gemma2Config(**SIZE, head_dim=8, final_logit_softcapping=1.0),
    ],
    ids=lambda config: config.model_type,
)
def test_families_that_cannot_be_trained_are_refused_in_one_line(
    config: PreTrainedConfig, tmp_path: Any
) -> None:
    with pytest.raises(InputError, match=r"model\.path.*; use (another|a) model"):
        probe(loaded(config, tmp_path))


def test_layers_are_recomputed_though_nothing_is_random(tmp_path: Any) -> None:
    lm = loaded(LlamaConfig(**SIZE), tmp_path, gradient_checkpointing=True)
    passes = []
    lm.model.layers[0].self_attn.register_forward_hook(lambda *_: passes.append(1))
    lm(input_ids=torch.arange(5)[None], use_cache=False).logits.sum().backward()
    assert len(passes) == 2

"""Models are made ready for training, or refused with the remedy."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from ur2.errors import InputError
from ur2.policy.model.models import load_lm, use_liger_kernels
from ur2.policy.weight_sender import write_exported


def load(path: Path | str) -> PreTrainedModel:
    return load_lm(str(path), revision=None, dtype=torch.float32, gradient_checkpointing=False)


@pytest.fixture
def copied(tiny_model: str, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "model")


def test_a_model_that_was_cut_short_is_refused(copied: Path) -> None:
    file = copied / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match="cannot be loaded"):
        load(copied)


def test_a_model_that_lacks_weights_is_refused(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    lost = next(name for name in weights if "mlp" in name)
    del weights[lost]
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=f"lacks weights: {lost}"):
        load(copied)


@pytest.mark.parametrize("tied", [False, True])
def test_a_tied_head_is_not_missing(tied: bool, copied: Path) -> None:
    config = AutoConfig.from_pretrained(copied)
    config.tie_word_embeddings = tied
    AutoModelForCausalLM.from_config(config).save_pretrained(copied)
    assert load(copied).config.tie_word_embeddings is tied


@pytest.mark.parametrize("generation", [None, {"temperature": 0.6, "top_p": 0.9}])
def test_an_export_has_the_sources_generation_config_as_it_is(
    generation: dict[str, float] | None, copied: Path, tmp_path: Path
) -> None:
    file = copied / "generation_config.json"  # one that transformers itself refuses to save
    file.unlink(missing_ok=True)
    if generation:
        file.write_text(json.dumps(generation))
    lm = load(copied)
    write_exported(lm.state_dict(), lm, copied, tmp_path / "out")
    found = tmp_path / "out" / "generation_config.json"
    assert (json.loads(found.read_text()) if found.exists() else None) == generation
    assert torch.equal(load(tmp_path / "out").lm_head.weight, lm.lm_head.weight)


def test_fused_kernels_without_a_gpu_are_refused(tiny_model: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match=r"policy\.liger_kernels needs a GPU"):
        use_liger_kernels(load(tiny_model))


def test_fused_kernels_that_are_not_installed_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", None)
    with pytest.raises(InputError, match="install it"):
        use_liger_kernels(None)

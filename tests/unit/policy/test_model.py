"""Models are made ready for training, or refused with the remedy."""

import sys

import pytest
import torch

from ur2.errors import InputError
from ur2.policy.model import load_lm, use_liger_kernels


def test_fused_kernels_without_a_gpu_are_refused(tiny_model: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match=r"policy\.liger_kernels needs a GPU"):
        load_lm(
            tiny_model, revision=None, dtype=torch.float32, gradient_checkpointing=False,
            liger_kernels=True,
        )  # fmt: skip


def test_fused_kernels_that_are_not_installed_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", None)
    with pytest.raises(InputError, match="install it"):
        use_liger_kernels(None)

"""Low-rank adapters: W + (alpha / rank) · B A, with W frozen. Hu et al. 2021.

Adapters live inside the language model. Engines and exported folders get merged weights, so that
nothing outside the policy knows of them, and the model without adapters is the one it started from.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ur2.errors import InputError
from ur2.policy.options import LoraOptions

ADAPTER = "default"
"""The name that peft gives to the only adapter."""
BASE = ".base_layer"


def add_adapters(lm: PreTrainedModel, options: LoraOptions, *, seed: int) -> None:
    """Freezes `lm` and gives its linear layers adapters that begin as 0.

    Raises:
        InputError: the model has no such layers, or they are not linear ones of its body.
    """
    from peft import LoraConfig, inject_adapter_in_model  # slow to import

    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        target_modules=list(options.targets) or "all-linear",
        lora_dropout=0.0,
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):  # the same on all ranks
        torch.manual_seed(seed)
        try:
            inject_adapter_in_model(config, lm, ADAPTER)
        except ValueError as error:
            raise InputError(f"policy.lora.targets: {error}") from error
    head = lm.get_output_embeddings()
    layers = {name: layer for name, layer in lm.named_modules() if hasattr(layer, "lora_A")}
    refused = {n for n, layer in layers.items() if layer is head or ADAPTER not in layer.lora_A}
    refused |= {t for t in options.targets if not any(f".{n}".endswith(f".{t}") for n in layers)}
    if refused:
        raise InputError(
            f"policy.lora.targets: {', '.join(sorted(refused))} cannot have an adapter; name "
            "linear layers of the body"
        )


@contextmanager
def adapters_off(lm: nn.Module) -> Iterator[None]:
    """Inside, `lm` computes what it computed before it got adapters."""
    layers: list[Any] = [module for module in lm.modules() if hasattr(module, "lora_A")]
    for layer in layers:
        layer._disable_adapters = True  # enable_adapters(False) would end their training too
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """One weight of the language model, with its adapter if it has one."""

    name: str
    """The parameter's name in the model without adapters."""
    parameter: nn.Parameter
    layer: Any = None
    """peft's layer that adapts it."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that `merged` reads."""
        if self.layer is None:
            return [self.parameter]
        adapters = (self.layer.lora_A[ADAPTER].weight, self.layer.lora_B[ADAPTER].weight)
        return [self.parameter, *adapters]

    def merged(self, device: torch.device | str = "cpu") -> Tensor:
        """A copy of its value, with what the adapter adds."""
        value = self.parameter.detach()
        if self.layer is None:
            return value.to(device, copy=True)
        down, up = (p.detach().float() for p in self.parameters[1:])
        scaling: float = self.layer.scaling[ADAPTER]
        merged = value.float() + scaling * (up @ down)
        return merged.to(device, value.dtype)


def weights_of(lm: nn.Module) -> Iterator[Weight]:
    """The weights of the model as it was without adapters; a tied one appears once."""
    for name, parameter in lm.named_parameters():
        path, _, kind = name.rpartition(".")
        if ".lora_" in name:
            continue
        if not path.endswith(BASE):
            yield Weight(name=name, parameter=parameter)
            continue
        owner = path.removesuffix(BASE)
        layer = lm.get_submodule(owner) if kind == "weight" else None
        yield Weight(name=f"{owner}.{kind}", parameter=parameter, layer=layer)

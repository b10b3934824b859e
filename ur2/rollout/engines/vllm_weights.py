"""Weight updates inside vllm's own processes, one per tensor-parallel rank."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import set_current_vllm_config
from vllm.model_executor.layers.attention import is_deferred_attention_layer
from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    UnquantizedEmbeddingMethod,
)
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)
from vllm.model_executor.model_loader.reload.layerwise import (
    _get_original_loader,
    _layerwise_process,
    get_layerwise_info,
)
from vllm.model_executor.model_loader.reload.utils import get_layer_tensors

from ur2.checksums import checksum, total
from ur2.rollout.engines.weights import damaged, read_checksums, read_weights

PROBE_ROWS = 256


class WeightReloader:
    """A vllm worker extension: mixed into the worker class, called through `collective_rpc`."""

    vllm_config: Any
    model_runner: Any
    ur2_route: "Route | None" = None

    def ur2_reload(self, path: str) -> str:
        """Loads the weights of directory `path` into the running model.

        Layer by layer: kernels that repack their weights (all linear layers on CPU) get the plain
        layout back, are loaded, and are repacked in place. The first time vllm finds the way of
        each tensor by its name; later ones take the same way.

        Returns:
            What did not fit, empty where all did. Exceptions lose their type on the way to the
            caller, so the failure travels as text.
        """
        model = self.model_runner.get_model()
        missing: list[str] = []
        try:
            weights = dict(read_weights(path))
            expected = {name for name, _ in model.named_parameters()}
            with set_current_vllm_config(self.vllm_config), torch.no_grad():
                initialize_layerwise_reload(model)
                if self.ur2_route is not None and self.ur2_route.sources == weights.keys():
                    self.ur2_route.load(weights)
                else:
                    recorder = Recorder(model, weights)
                    missing = sorted(expected - model.load_weights(weights.items()))
                    self.ur2_route = None if missing else recorder.route()
                finalize_layerwise_reload(model, self.vllm_config.model_config)
                _repack_heads(model)
        except (AssertionError, KeyError, ValueError, RuntimeError, OSError) as error:
            return f"{type(error).__name__}: {error}"
        return f"missing {', '.join(missing)}" if missing else ""

    def ur2_differing(self, path: str) -> list[str]:
        """Tensors that `path` or, after `ur2_reload`, the model does not hold as published.

        What the model holds is compared where its layout is known: in kernels that have repacked
        it, too, but not where ranks share a tensor.
        """
        weights = dict(read_weights(path))
        differing = damaged(weights, read_checksums(path))
        if differing or self.ur2_route is None or self.vllm_config.parallel_config.world_size > 1:
            return differing
        with set_current_vllm_config(self.vllm_config), torch.no_grad():
            return [
                *self.ur2_route.differing(weights),
                *_stale_heads(self.model_runner.get_model()),
            ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a layer's weight loader, without the tensor."""

    parameter: str
    """Of the layer."""
    source: str
    """Name of the tensor that is loaded."""
    argument: str
    """What the loader calls it."""
    bound: inspect.BoundArguments
    """The other arguments."""

    def of(self, weights: Mapping[str, Tensor]) -> tuple[str, inspect.BoundArguments]:
        """The call with a tensor, as vllm keeps it."""
        arguments = {**self.bound.arguments, self.argument: weights[self.source]}
        return self.parameter, inspect.BoundArguments(self.bound.signature, arguments)


class Route:
    """The calls that load a model, layer by layer."""

    def __init__(self, calls: Mapping[nn.Module, Sequence[Call]]) -> None:
        self._calls = calls
        self.sources = {call.source for of_layer in calls.values() for call in of_layer}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Makes them, between the beginning and the end of a layerwise reload."""
        for layer, calls in self._calls.items():
            info = get_layerwise_info(layer)
            info.loaded_weights = [call.of(weights) for call in calls]
            info.load_numel = info.load_numel_total
            if not is_deferred_attention_layer(layer):  # they are loaded at the end
                _layerwise_process(layer, info)

    def differing(self, weights: Mapping[str, Tensor]) -> list[str]:
        """Sources of parameters that do not hold them."""
        return [
            source
            for layer, calls in self._calls.items()
            for parameter in {call.parameter for call in calls}
            for source in _differing(
                _plain(layer, parameter),
                {c.source: weights[c.source] for c in calls if c.parameter == parameter},
            )
        ]


class Recorder:
    """Listens to the weight loaders of a layerwise reload that has begun."""

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        self._sources = {id(tensor): name for name, tensor in weights.items()}
        self._names = set(weights)
        self._calls: dict[nn.Module, list[Call]] = {}
        self._lost = False
        for layer in model.modules():
            for name, tensor in get_layer_tensors(layer).items():
                if hasattr(tensor, "weight_loader"):
                    tensor.weight_loader = self._listening(layer, name, tensor)

    def route(self) -> Route | None:
        """The way of all tensors; None where a loader got something else than one of them.

        Then it is deaf, though vllm may keep some of the loaders for other reloads.
        """
        route = Route({layer: tuple(calls) for layer, calls in self._calls.items()})
        self._sources = {}
        return None if self._lost or route.sources != self._names else route

    def _listening(self, layer: nn.Module, parameter: str, tensor: Any) -> Callable[..., Any]:
        loader = tensor.weight_loader
        signature = inspect.signature(_get_original_loader(tensor))

        @wraps(loader)  # vllm tells its own wrappers by their name
        def listening(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            self._note(layer, parameter, bound)
            return loader(*args, **kwargs)

        return listening

    def _note(self, layer: nn.Module, parameter: str, bound: inspect.BoundArguments) -> None:
        given = [key for key, value in bound.arguments.items() if id(value) in self._sources]
        if len(given) != 1:
            self._lost = True
            return
        source = self._sources[id(bound.arguments[given[0]])]
        for key, value in bound.arguments.items():
            if isinstance(value, Tensor):
                bound.arguments[key] = None
        call = Call(parameter=parameter, source=source, argument=given[0], bound=bound)
        self._calls.setdefault(layer, []).append(call)


def _repack_heads(model: torch.nn.Module) -> None:
    """Refreshes the packed copy that a tied LM head keeps of the embedding on CPU.

    The head shares the embedding's parameter, so no weight is ever loaded into the head itself and
    the layerwise reload skips it. Without effect on GPU, where nothing is packed.
    """
    for module in model.modules():
        method = getattr(module, "quant_method", None)
        if isinstance(module, ParallelLMHead) and isinstance(method, UnquantizedEmbeddingMethod):
            method.process_weights_after_loading(module)


def _stale_heads(model: nn.Module) -> list[str]:
    """Tied LM heads whose packed copy is not the embedding."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, ParallelLMHead)
        and hasattr(module, "cpu_linear")
        and _differing(_by_kernel(module, module.weight.shape[1]), {name: module.weight})
    ]


def _differing(parameter: Iterable[Tensor], sources: Mapping[str, Tensor]) -> list[str]:
    """The sources, where the parameter's parts do not add up to them."""
    parts = list(parameter)
    expected = total(checksum(source.to(parts[0].dtype)) for source in sources.values())
    return [] if total(checksum(part) for part in parts) == expected else sorted(sources)


def _plain(layer: nn.Module, parameter: str) -> Iterator[Tensor]:
    """The values of a parameter, in parts and any order."""
    value: Tensor = getattr(layer, parameter)
    if value.numel():
        yield value
    else:  # repacked, which leaves an empty parameter behind
        columns = get_layerwise_info(layer).restore_metadata[0][parameter].shape[1]
        yield from _by_kernel(layer, columns)


def _by_kernel(layer: Any, columns: int) -> Iterator[Tensor]:
    """The columns of a weight as its kernel has them: what it makes of the rows of an identity."""
    dtype = next(layer.parameters()).dtype
    for start in range(0, columns, PROBE_ROWS):
        rows = torch.arange(start, min(start + PROBE_ROWS, columns))
        yield layer.quant_method.apply(layer, torch.nn.functional.one_hot(rows, columns).to(dtype))

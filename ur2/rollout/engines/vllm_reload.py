"""Replacing the weights of a running vllm model, layer by layer and part by part."""

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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

PROBE_ROWS = 256
SumOf = Callable[[str, torch.dtype], int]
"""The checksum of what the policy published under a name, in another type."""


class Reloader:
    """Replaces the weights of one model, as often as there are new ones.

    Kernels that repack their weights (all linear layers on CPU) get the plain layout back, are
    loaded as soon as their weights are there, and are repacked in place. The first time vllm finds
    the way of each tensor by its name; later ones take the same way.
    """

    def __init__(self, model: nn.Module, vllm_config: Any) -> None:
        self._model: Any = model
        self._vllm_config = vllm_config
        self._route: Route | None = None
        self._trip: Trip | None = None
        self._recorder: Recorder
        self._missing: set[str] = set()

    def begin(self, names: Collection[str]) -> None:
        """Before the first part; after it, `finish` must come.

        Args:
            names: of all tensors to come.
        """
        self._missing = {name for name, _ in self._model.named_parameters()}
        self._trip = None
        with self._inside():
            initialize_layerwise_reload(self._model)
            if self._route is not None and self._route.sources == set(names):
                self._trip = Trip(self._route)
            else:
                self._route = None
                self._recorder = Recorder(self._model, names)

    def load(self, weights: Sequence[tuple[str, Tensor]]) -> None:
        """Takes one part."""
        with self._inside():
            if self._trip is not None:
                self._trip.load(dict(weights))
            else:
                self._recorder.expect(weights)
                self._missing -= self._model.load_weights(iter(weights))

    def finish(self) -> list[str]:
        """After the last part, whatever became of it; the model is whole, if not right.

        Returns:
            Names of what was not there.
        """
        with self._inside():
            finalize_layerwise_reload(self._model, self._vllm_config.model_config)
            _repack_heads(self._model)
        if self._trip is not None:
            return self._trip.missing()
        if not self._missing:
            self._route = self._recorder.route()
        return sorted(self._missing)

    def differing(self, sum_of: SumOf) -> list[str]:
        """Tensors that the model does not hold as published.

        Compared where the layout is known: in kernels that have repacked it, too, but not where
        ranks share a tensor.
        """
        if self._route is None or self._vllm_config.parallel_config.world_size > 1:
            return []
        with self._inside():
            return [*self._route.differing(sum_of), *_stale_heads(self._model)]

    @contextmanager
    def _inside(self) -> Iterator[None]:
        with set_current_vllm_config(self._vllm_config), torch.no_grad():
            yield


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a layer's weight loader, without the tensor."""

    parameter: str
    """The parameter's name in the layer."""
    source: str
    """Name of the tensor that is loaded."""
    argument: str
    """The loader's name for it."""
    bound: inspect.BoundArguments
    """The other arguments."""

    def of(self, weights: Mapping[str, Tensor]) -> tuple[str, inspect.BoundArguments]:
        """The call with a tensor, as vllm keeps it."""
        arguments = {**self.bound.arguments, self.argument: weights[self.source]}
        return self.parameter, inspect.BoundArguments(self.bound.signature, arguments)


class Route:
    """The calls that load a model, layer by layer."""

    def __init__(self, calls: Mapping[nn.Module, Sequence[Call]]) -> None:
        self.calls = calls
        self.sources = {call.source for of_layer in calls.values() for call in of_layer}

    def differing(self, sum_of: SumOf) -> list[str]:
        """Sources of parameters that do not hold them."""
        return [
            source
            for layer, calls in self.calls.items()
            for parameter in {call.parameter for call in calls}
            for source in _differing(
                _plain(layer, parameter),
                {c.source for c in calls if c.parameter == parameter},
                sum_of,
            )
        ]


class Trip:
    """One reload along a route, between the beginning and the end of vllm's."""

    def __init__(self, route: Route) -> None:
        self._left = dict(route.calls)
        self._held: dict[str, Tensor] = {}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Loads the layers that have all their weights now; keeps what others still need."""
        self._held |= weights
        for layer, calls in list(self._left.items()):
            if all(call.source in self._held for call in calls):
                self._load_layer(layer, calls)
                del self._left[layer]
        needed = set(self._sources())
        self._held = {name: tensor for name, tensor in self._held.items() if name in needed}

    def _load_layer(self, layer: nn.Module, calls: Sequence[Call]) -> None:
        info = get_layerwise_info(layer)
        info.loaded_weights = [call.of(self._held) for call in calls]
        info.load_numel = info.load_numel_total
        if not is_deferred_attention_layer(layer):  # they are loaded at the end
            _layerwise_process(layer, info)

    def _sources(self) -> Iterator[str]:
        return (call.source for calls in self._left.values() for call in calls)

    def missing(self) -> list[str]:
        """Sources that never came."""
        return sorted(set(self._sources()) - self._held.keys())


class Recorder:
    """Listens to the weight loaders of a layerwise reload that has begun."""

    def __init__(self, model: nn.Module, names: Collection[str]) -> None:
        self._sources: dict[int, str] = {}
        self._names = set(names)
        self._calls: dict[nn.Module, list[Call]] = {}
        self._lost = False
        for layer in model.modules():
            for name, tensor in get_layer_tensors(layer).items():
                if hasattr(tensor, "weight_loader"):
                    tensor.weight_loader = self._listening(layer, name, tensor)

    def expect(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Notes the arguments with which loaders are called from now on."""
        self._sources = {id(tensor): name for name, tensor in weights}

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
        and total(map(checksum, _by_kernel(module, module.weight.shape[1])))
        != checksum(module.weight)
    ]


def _differing(parameter: Iterable[Tensor], sources: Iterable[str], sum_of: SumOf) -> list[str]:
    """The sources, where the parameter's parts do not add up to them."""
    parts = list(parameter)
    expected = total(sum_of(source, parts[0].dtype) for source in sources)
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

"""Weight updates inside vllm's own processes, one per tensor-parallel rank."""

from typing import Any

import torch
from vllm.config import set_current_vllm_config
from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    UnquantizedEmbeddingMethod,
)
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)

from ur2.rollout.engines.weights import read_weights


class WeightReloader:
    """A vllm worker extension: mixed into the worker class, called through `collective_rpc`."""

    vllm_config: Any
    model_runner: Any

    def ur2_reload(self, path: str) -> str:
        """Loads the weights of directory `path` into the running model.

        Layer by layer: kernels that repack their weights (all linear layers on CPU) get the plain
        layout back, are loaded, and are repacked in place.

        Returns:
            What did not fit, empty where all did. Exceptions lose their type on the way to the
            caller, so the failure travels as text.
        """
        model = self.model_runner.get_model()
        expected = {name for name, _ in model.named_parameters()}
        try:
            with set_current_vllm_config(self.vllm_config), torch.no_grad():
                initialize_layerwise_reload(model)
                loaded = model.load_weights(read_weights(path))
                finalize_layerwise_reload(model, self.vllm_config.model_config)
                _repack_heads(model)
        except (AssertionError, KeyError, ValueError, RuntimeError, OSError) as error:
            return f"{type(error).__name__}: {error}"
        missing = sorted(expected - loaded)
        return f"missing {', '.join(missing)}" if missing else ""


def _repack_heads(model: torch.nn.Module) -> None:
    """Refreshes the packed copy that a tied LM head keeps of the embedding on CPU.

    The head shares the embedding's parameter, so no weight is ever loaded into the head itself and
    the layerwise reload skips it. Without effect on GPU, where nothing is packed.
    """
    for module in model.modules():
        method = getattr(module, "quant_method", None)
        if isinstance(module, ParallelLMHead) and isinstance(method, UnquantizedEmbeddingMethod):
            method.process_weights_after_loading(module)

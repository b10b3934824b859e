"""The engines by name."""

import importlib.util
from collections.abc import Mapping, Sequence

from ur2.errors import InputError
from ur2.prompts.dialect import Markers
from ur2.rollout.engines.base import Engine
from ur2.rollout.engines.chat import ChatEngine
from ur2.rollout.engines.hf import HfEngine
from ur2.rollout.engines.remote import RemoteEngine
from ur2.rollout.engines.vllm import VllmEngine
from ur2.rollout.options import EngineName, EngineOptions


def make_engine(
    options: EngineOptions,
    *,
    model_path: str,
    dtype: str,
    max_model_len: int,
    seed: int,
    sleeps: bool = False,
    revision: str | None = None,
    markers: Sequence[Markers] = (),
) -> Engine:
    """The engine that `options` names, not started yet.

    Args:
        options: the engine's options.
        model_path: a Hugging Face model folder or name.
        dtype: a torch dtype's name, e.g. `float32`.
        max_model_len: tokens of the longest context.
        seed: of the requests that bring none.
        sleeps: whether it will be put to sleep.
        revision: of a Hugging Face name.
        markers: pairs whose closing marker stops a turn, for endpoints that cut it off.
    """
    if options.speaks_text:
        return ChatEngine(options, model=model_path, markers=markers)
    engine = ENGINES[options.name]
    return engine(
        options,
        model_path=model_path,
        dtype=dtype,
        max_model_len=max_model_len,
        seed=seed,
        sleeps=sleeps,
        revision=revision,
    )


def check_installed(options: EngineOptions) -> None:
    """Looks for the engine's library without importing it.

    Raises:
        InputError: it is not installed.
    """
    library = _LIBRARIES[options.name]
    if importlib.util.find_spec(library) is None:
        raise InputError(
            f"rollout.engine.name={options.name}: {library} is not installed; "
            "install the extra 'cpu' or 'gpu', or set rollout.engine.name=hf"
        )


ENGINES: Mapping[EngineName, type[VllmEngine] | type[HfEngine] | type[RemoteEngine]] = {
    "vllm": VllmEngine,
    "hf": HfEngine,
    "remote": RemoteEngine,
}
_LIBRARIES: Mapping[EngineName, str] = {
    "vllm": "vllm",
    "hf": "transformers",
    "remote": "transformers",
}

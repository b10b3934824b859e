"""Nearest vectors by inner product; the only home of faiss.

Shapes: _N vectors in the index, _Q queries, _K results per query, _D width of a vector.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import faiss
import numpy as np
from numpy.typing import NDArray

from ur2.errors import InputError
from ur2.retrieval.manifest import IndexSpec

VERSION: str = faiss.__version__
NO_ROW = -1
"""Stands where an approximate search found fewer than K rows."""


class VectorIndex:
    """Vectors that can be added and searched; rows are numbered in the order of adding."""

    def __init__(self, faiss_index: Any) -> None:
        self._faiss = faiss_index

    @property
    def dimension(self) -> int:
        """D."""
        return cast(int, self._faiss.d)

    def __len__(self) -> int:
        return cast(int, self._faiss.ntotal)

    def add(self, vector_ND: NDArray[np.float32], *, num_threads: int = 1) -> None:
        """Appends rows."""
        faiss.omp_set_num_threads(num_threads)
        self._faiss.add(vector_ND)

    def search(
        self, query_QD: NDArray[np.float32], k: int, *, num_threads: int = 1
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The rows with the largest inner products, best first.

        Returns:
            Scores (Q, K) and rows (Q, K), K = min(k, N).
        """
        # faiss keeps the number of threads per calling thread, hence not once at the start.
        faiss.omp_set_num_threads(num_threads)
        return cast(
            tuple[NDArray[np.float32], NDArray[np.int64]],
            self._faiss.search(
                query_QD, min(k, len(self)), params=_search_parameters(self._faiss, k)
            ),
        )

    def save(self, path: Path) -> None:
        """Writes the index to a file."""
        faiss.write_index(self._faiss, str(path))


def create(spec: IndexSpec, dimension: int) -> VectorIndex:
    """Makes an empty index.

    Raises:
        InputError: this kind of index is not available.
    """
    if spec.kind not in KINDS:
        raise InputError(f"index={spec.kind} is not available yet; available: {', '.join(KINDS)}")
    return VectorIndex(KINDS[spec.kind](dimension, spec.parameters))


def load(path: Path) -> VectorIndex:
    """Opens an index that `VectorIndex.save` wrote.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        return VectorIndex(faiss.read_index(str(path)))
    except RuntimeError as error:
        raise InputError(f"{path} is missing or damaged; build the index again") from error


def _search_parameters(index: Any, k: int) -> Any:
    if isinstance(index, faiss.IndexHNSW):
        # The stubs of faiss lack this class.
        return faiss.SearchParametersHNSW(  # type: ignore[attr-defined]
            efSearch=max(index.hnsw.efSearch, k)
        )
    return None


def _flat(dimension: int, parameters: Mapping[str, int]) -> Any:
    return faiss.IndexFlatIP(dimension)


def _hnsw(dimension: int, parameters: Mapping[str, int]) -> Any:
    """Malkov and Yashunin 2016, over unit vectors, where inner product and distance agree."""
    index = faiss.IndexHNSWFlat(dimension, parameters["links"], faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = parameters["build_breadth"]
    index.hnsw.efSearch = parameters["search_breadth"]
    return index


KINDS: Mapping[str, Callable[[int, Mapping[str, int]], Any]] = {"flat": _flat, "hnsw": _hnsw}
"""Kind -> (dimension, parameters) -> an empty faiss index."""

"""Nearest vectors by inner product.

Shapes: _N vectors in the index, _Q queries, _K results per query, _D width of a vector.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ur2.errors import InputError
from ur2.retrieval.index.gpu import MAX_ROWS, adder, can_move, gpus, mover, set_breadth, train
from ur2.retrieval.index.kinds import KINDS, faiss, lists_of
from ur2.retrieval.index.rules import plan
from ur2.retrieval.manifest import VectorSpec

VERSION: str = faiss.__version__
# Queries times width from which exact search multiplies matrices. The default of 128,000 compares
# row by row up to then, which costs seven times as much for 128 queries of width 384.
faiss.cvar.distance_compute_blas_threshold = 1024
ROWS_PER_ROUND = 16_384
"""Vectors read at once while an index is made."""
TRAINING_ROWS_PER_CENTROID = 64
MIN_TRAINING_ROWS = 65_536
MAX_HNSW_BREADTH = 8192
"""Beyond this a flat index is the better choice."""

Matrix = NDArray[np.float32]
Ranking = tuple[Matrix, NDArray[np.int64]]
"""Scores and rows, both (Q, K)."""
Progress = Callable[[str, int, int], None]
"""(stage, done, total), called as work proceeds; `training` is one step."""


class VectorSource(Protocol):
    """Where the N vectors of an index come from, e.g. memory-mapped files."""

    def __len__(self) -> int:
        """N."""

    @property
    def dimension(self) -> int:
        """D."""

    def __getitem__(self, rows: slice, /) -> NDArray[np.floating[Any]]:
        """Consecutive vectors as (rows, D), float32 or float16."""


class InMemory:
    """Vectors in memory as a source."""

    def __init__(self, vector_ND: Matrix) -> None:
        self._vector_ND = vector_ND

    def __len__(self) -> int:
        return len(self._vector_ND)

    @property
    def dimension(self) -> int:
        """D."""
        return int(self._vector_ND.shape[1])

    def __getitem__(self, rows: slice) -> Matrix:
        return self._vector_ND[rows]


class VectorIndex:
    """Vectors that can be searched; rows are numbered as in the source they came from."""

    def __init__(
        self, faiss_index: Any, *, breadth: int | None = None, on_gpu: bool = False
    ) -> None:
        """Searches `faiss_index`, `breadth` as in `SearchSpec`; on a GPU one search at a time."""
        self._faiss = faiss_index
        self._breadth = breadth
        self._on_gpu = on_gpu

    @property
    def dimension(self) -> int:
        """D."""
        return cast(int, self._faiss.d)

    def __len__(self) -> int:
        return cast(int, self._faiss.ntotal)

    def search(
        self, query_QD: Matrix, k: int, *, breadth: int | None = None, num_threads: int = 1
    ) -> Ranking:
        """The rows with the largest inner products, best first.

        Args:
            query_QD: the queries.
            k: how many rows for each.
            breadth: instead of the one that the index was opened with.
            num_threads: of this search.

        Returns:
            Scores (Q, K) and rows (Q, K), K = min(k, N).
        """
        # faiss keeps the number of threads per calling thread, hence not once at the start.
        faiss.omp_set_num_threads(num_threads)
        k, breadth = min(k, len(self)), breadth or self._breadth
        if self._on_gpu:
            set_breadth(self._faiss, breadth)
            return cast(Ranking, self._faiss.search(query_QD, min(k, MAX_ROWS)))
        how = _search_parameters(self._faiss, breadth, k)
        return cast(Ranking, self._faiss.search(query_QD, k, params=how))

    def breadths(self, k: int) -> range:
        """The breadths that tell in a search for `k` rows; empty where none does."""
        if isinstance(self._faiss, faiss.IndexHNSW):
            return range(min(k, len(self)), min(len(self), MAX_HNSW_BREADTH) + 1)
        lists = lists_of(self._faiss)
        return range(0) if lists is None else range(1, lists.nlist + 1)

    @property
    def breadth_name(self) -> str:
        """The name of the breadth in faiss."""
        return "efSearch" if isinstance(self._faiss, faiss.IndexHNSW) else "nprobe"

    def search_exactly(self, query_QD: Matrix, k: int, *, num_threads: int = 1) -> Ranking:
        """The nearest of all vectors as they are kept, whatever the breadth."""
        if isinstance(self._faiss, faiss.IndexHNSW):
            return VectorIndex(self._faiss.storage).search(query_QD, k, num_threads=num_threads)
        breadth = max(self.breadths(k), default=None)
        return self.search(query_QD, k, breadth=breadth, num_threads=num_threads)

    def save(self, path: Path) -> None:
        """Writes the index to a file.

        Raises:
            OSError: there is no room for it, or the like.
        """
        try:
            faiss.write_index(self._faiss, str(path))
        except RuntimeError as error:
            raise OSError(f"{path}: {str(error).splitlines()[0]}") from error


def build_index(
    spec: VectorSpec,
    vectors: VectorSource,
    *,
    num_threads: int = 1,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = lambda stage, done, total: None,
) -> VectorIndex:
    """An index over all of `vectors`, read a slice at a time.

    What must be learnt first (centroids, codes) is learnt from a sample of the rows, drawn with
    `seed`. `plan` tells beforehand whether `spec` suits the vectors. The index is on the CPU, but
    GPUs that `device` names take part in making it.

    Raises:
        InputError: `spec` is impossible for these vectors, or the device is not there.
    """
    num_vectors = len(vectors)
    parameters = plan(spec, num_vectors=num_vectors, dimension=vectors.dimension)
    devices = gpus(device)
    move = mover(devices) if devices else None
    faiss.omp_set_num_threads(num_threads)
    index = KINDS[spec.kind](vectors.dimension, spec, parameters)
    if not index.is_trained:
        progress("training", 0, 1)
        num_rows = max(MIN_TRAINING_ROWS, TRAINING_ROWS_PER_CENTROID * parameters.get("lists", 0))
        train(index, sample_rows(vectors, num_rows, seed=seed), move)
        progress("training", 1, 1)
    add = adder(index, move)
    for start in range(0, num_vectors, ROWS_PER_ROUND):
        add(_float32(vectors[start : start + ROWS_PER_ROUND]))
        progress("indexing", index.ntotal, num_vectors)
    return VectorIndex(index)


def load(path: Path, *, breadth: int | None = None, device: str = "cpu") -> VectorIndex:
    """Opens an index that `VectorIndex.save` wrote.

    On the CPU it is memory-mapped: processes share its pages. On GPUs it is copied there, if its
    kind can be.

    Raises:
        InputError: the file is missing or damaged, or the device is not there.
    """
    devices = gpus(device)
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except (RuntimeError, MemoryError) as error:
        raise InputError(f"{path} is missing or damaged; build the index again") from error
    if devices and can_move(index):
        return VectorIndex(mover(devices)(index), breadth=breadth, on_gpu=True)
    return VectorIndex(index, breadth=breadth)


def exact_search(
    vectors: VectorSource, query_QD: Matrix, k: int, *, num_threads: int = 1
) -> Ranking:
    """The nearest vectors of a source, found by looking at each of them."""
    faiss.omp_set_num_threads(num_threads)
    best = faiss.ResultHeap(len(query_QD), k, keep_max=True)
    for start in range(0, len(vectors), ROWS_PER_ROUND):
        vector_ND = _float32(vectors[start : start + ROWS_PER_ROUND])
        score_QK, row_QK = faiss.knn(
            query_QD, vector_ND, min(k, len(vector_ND)), metric=faiss.METRIC_INNER_PRODUCT
        )
        best.add_result(score_QK, row_QK + start)
    best.finalize()
    return best.D, best.I


def sample_rows(vectors: VectorSource, num_rows: int, *, seed: int) -> Matrix:
    """At most `num_rows` rows drawn without replacement, in their order."""
    num_vectors = len(vectors)
    if num_rows >= num_vectors:
        chosen = np.arange(num_vectors)
    else:
        chosen = np.sort(np.random.default_rng(seed).choice(num_vectors, num_rows, replace=False))
    sample_ND = np.empty((len(chosen), vectors.dimension), dtype=np.float32)
    for start in range(0, num_vectors, ROWS_PER_ROUND):
        first, last = np.searchsorted(chosen, (start, start + ROWS_PER_ROUND))
        rows = chosen[first:last] - start
        sample_ND[first:last] = vectors[start : start + ROWS_PER_ROUND][rows]
    return sample_ND


def _float32(vector_ND: NDArray[np.floating[Any]]) -> Matrix:
    return np.ascontiguousarray(vector_ND, dtype=np.float32)


def _search_parameters(index: Any, breadth: int | None, k: int) -> Any:
    if isinstance(index, faiss.IndexHNSW):
        breadth = max(breadth or index.hnsw.efSearch, k)
        return faiss.SearchParametersHNSW(efSearch=breadth)
    if breadth is None or lists_of(index) is None:
        return None
    of_lists = faiss.SearchParametersIVF(nprobe=breadth)
    if isinstance(index, faiss.IndexPreTransform):
        return faiss.SearchParametersPreTransform(index_params=of_lists)
    return of_lists

"""The kinds of index of vectors, as faiss makes them. With `nearest` the only home of faiss."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from ur2.processor import has_avx512
from ur2.retrieval.index.options import VectorKind
from ur2.retrieval.manifest import VectorSpec

BLAS_VARIABLE = "OPENBLAS_CORETYPE"


def _import_faiss() -> Any:
    """The library, its matrix products by AVX-512 where the processor has it.

    What they choose by themselves on AMD's processors of that kind takes four times as long.
    """
    chooses = BLAS_VARIABLE in os.environ or not has_avx512()
    if not chooses:
        os.environ[BLAS_VARIABLE] = "SkylakeX"
    import faiss

    if not chooses:
        del os.environ[BLAS_VARIABLE]  # Other libraries choose well.
    return faiss


faiss: Any = _import_faiss()
"""Untyped: its stubs lack classes and have others wrong."""


def lists_of(index: Any) -> Any:
    """The part of an index that has lists, if one has."""
    if isinstance(index, faiss.IndexPreTransform):
        index = faiss.downcast_index(index.index)
    return index if isinstance(index, faiss.IndexIVF) else None


def _flat(dimension: int, spec: VectorSpec, parameters: Mapping[str, int]) -> Any:
    if spec.quantiser == "none":
        return faiss.IndexFlatIP(dimension)
    return faiss.IndexScalarQuantizer(
        dimension, _SCALAR[spec.quantiser], faiss.METRIC_INNER_PRODUCT
    )


def _hnsw(dimension: int, spec: VectorSpec, parameters: Mapping[str, int]) -> Any:
    """Malkov and Yashunin 2016, over unit vectors, where inner product and distance agree."""
    links, metric = parameters["links"], faiss.METRIC_INNER_PRODUCT
    index = (
        faiss.IndexHNSWFlat(dimension, links, metric)
        if spec.quantiser == "none"
        else faiss.IndexHNSWSQ(dimension, _SCALAR[spec.quantiser], links, metric)
    )
    index.hnsw.efConstruction = parameters["build_breadth"]
    return index


def _ivf(dimension: int, spec: VectorSpec, parameters: Mapping[str, int]) -> Any:
    """Lists around the centroids of spherical k-means (Sivic and Zisserman 2003)."""
    lists, metric = parameters["lists"], faiss.METRIC_INNER_PRODUCT
    centroids = faiss.IndexFlatIP(dimension)
    index = (
        faiss.IndexIVFFlat(centroids, dimension, lists, metric)
        if spec.quantiser == "none"
        else faiss.IndexIVFScalarQuantizer(
            centroids, dimension, lists, _SCALAR[spec.quantiser], metric
        )
    )
    return _learns_quietly(index)


def _ivf_pq(dimension: int, spec: VectorSpec, parameters: Mapping[str, int]) -> Any:
    """Product quantisation of what is left to the centroid (Jégou et al. 2011), rotated (OPQ)."""
    num_bytes = parameters["bytes"]
    index = faiss.IndexIVFPQ(
        faiss.IndexFlatIP(dimension),
        dimension,
        parameters["lists"],
        num_bytes,
        8,
        faiss.METRIC_INNER_PRODUCT,
    )
    _learns_quietly(index.pq)
    _learns_quietly(index)
    if not parameters["rotate"]:
        return index
    rotation = faiss.OPQMatrix(dimension, num_bytes)
    # faiss keeps a bare pointer to these codes, which the rotation is learnt with.
    rotation.codes = _learns_quietly(faiss.ProductQuantizer(dimension, num_bytes, 8))
    rotation.pq = rotation.codes
    return faiss.IndexPreTransform(rotation, index)


def _learns_quietly(learner: Any) -> Any:
    """`plan` has seen to the number of vectors, about which faiss would warn."""
    learner.cp.min_points_per_centroid = 1
    return learner


_SCALAR: Mapping[str, int] = {
    "fp16": faiss.ScalarQuantizer.QT_fp16,
    "sq8": faiss.ScalarQuantizer.QT_8bit,
}

KINDS: Mapping[VectorKind, Callable[[int, VectorSpec, Mapping[str, int]], Any]] = {
    "flat": _flat,
    "hnsw": _hnsw,
    "ivf": _ivf,
    "ivf_pq": _ivf_pq,
}
"""Kind -> (dimension, spec, planned parameters) -> an empty faiss index."""

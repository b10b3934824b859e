"""The work of faiss on GPUs, where it was built for them and there are some.

Vectors and lists are searched there; of making an index the costly steps are: placing centroids,
and finding the list of each vector. Graphs and scalar-quantised flat vectors stay on the CPU.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ur2.errors import InputError
from ur2.retrieval.index.kinds import faiss, lists_of

Move = Callable[[Any], Any]
"""A faiss index -> the same on other devices."""
MAX_ROWS = 2048
"""The most rows per query, and the most lists, that faiss searches on a GPU."""


def gpus(device: str) -> list[int]:
    """The numbers of the GPUs that `device` names: `auto` and `cuda` are all, `cpu` is none.

    Raises:
        InputError: they are not there, or faiss was built without them.
    """
    kind, _, number = device.partition(":")
    there = 0 if kind == "cpu" else int(faiss.get_num_gpus())
    if kind == "cpu" or (kind == "auto" and not there):
        return []
    wanted = list(range(there)) if not number else [int(number)] if number.isdigit() else [-1]
    if kind not in ("auto", "cuda") or not wanted or not set(wanted) <= set(range(there)):
        raise InputError(
            f"index_device={device} is not to be had: faiss sees {there} GPUs; use "
            "index_device=cpu, or install faiss-gpu-cu12 on a machine with a GPU"
        )
    return wanted


def mover(devices: Sequence[int]) -> Move:
    """Puts an index on one GPU, or a share of it on each of several."""
    resources = [faiss.StandardGpuResources() for _ in devices]

    def move(index: Any) -> Any:
        if len(devices) == 1:
            moved = faiss.index_cpu_to_gpu(resources[0], devices[0], index)
        else:
            options = faiss.GpuMultipleClonerOptions()
            options.shard = True
            moved = faiss.index_cpu_to_gpu_multiple_py(
                resources, index, options, gpus=list(devices)
            )
        moved.ur2_resources = resources  # These must live as long as the index.
        return moved

    return move


def can_move(index: Any) -> bool:
    """Whether faiss searches this kind of index on GPUs."""
    return isinstance(index, faiss.IndexFlat) or lists_of(index) is not None


def set_breadth(moved: Any, breadth: int | None) -> None:
    """Sets how many lists a search visits, of an index with lists on GPUs."""
    if breadth is not None:
        faiss.GpuParameterSpace().set_index_parameter(moved, "nprobe", min(breadth, MAX_ROWS))


def train(index: Any, sample_ND: NDArray[np.float32], move: Move | None) -> None:
    """Learns what must be learnt, centroids with vectors that `move` has put elsewhere."""
    lists = lists_of(index)
    if move is None or lists is None:
        index.train(sample_ND)
        return
    moved = move(faiss.IndexFlatIP(lists.d))
    lists.clustering_index = moved
    try:
        index.train(sample_ND)
    finally:
        lists.clustering_index = None


def adder(index: Any, move: Move | None) -> Callable[[NDArray[np.float32]], None]:
    """A function that appends vectors; `move` has put the centroids of lists elsewhere."""
    lists = lists_of(index)
    if move is None or lists is None:
        return index.add  # type: ignore[no-any-return]
    centroids = move(lists.quantizer)

    def add(vector_ND: NDArray[np.float32]) -> None:
        if index is not lists:
            vector_ND = index.chain.at(0).apply(vector_ND)
        _, list_N1 = centroids.search(vector_ND, 1)
        pointers = (faiss.swig_ptr(vector_ND), None, faiss.swig_ptr(list_N1))
        lists.add_core(len(vector_ND), *pointers)
        index.ntotal = lists.ntotal

    return add

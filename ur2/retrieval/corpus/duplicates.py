"""Finds ids that occur twice among many millions, with 24 bytes on disk for each of them.

Shapes: _N passages.
"""

import hashlib
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

PLACE = np.dtype([("digest", "<u8"), ("file", "<u4"), ("member", "<u4"), ("line", "<u8")])
"""A passage: a digest of its id, and where it comes from."""


def id_digest(id_: str) -> int:
    """Eight bytes that equal ids share, and different ones hardly ever."""
    return int.from_bytes(hashlib.blake2b(id_.encode(), digest_size=8).digest(), "little")


def count_repeats(digest_N: NDArray[np.uint64]) -> int:
    """How many digests occurred before."""
    sorted_N = np.sort(digest_N)
    return int((sorted_N[1:] == sorted_N[:-1]).sum())


def duplicates(
    digest_N: NDArray[np.uint64], id_of: Callable[[int], str]
) -> Iterator[tuple[int, int]]:
    """Yields (row, the first row with the same id); exact, as digests only say where to look."""
    order_N = np.argsort(digest_N, kind="stable")
    sorted_N = digest_N[order_N]
    edges = np.flatnonzero(sorted_N[1:] != sorted_N[:-1]) + 1
    starts, stops = np.append(0, edges), np.append(edges, len(sorted_N))
    shared = np.flatnonzero(stops - starts > 1)
    for group in shared[np.argsort(order_N[starts[shared] + 1])]:
        first: dict[str, int] = {}
        for row in order_N[starts[group] : stops[group]].tolist():
            earlier = first.setdefault(id_of(row), row)
            if earlier != row:
                yield row, earlier

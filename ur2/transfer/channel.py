"""A channel from the policy's memory to the engines'."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from torch import Tensor

from ur2.transfer.records import WeightsManifest

Weights = Iterable[tuple[str, Tensor]]
Load = Callable[[list[tuple[str, Tensor]]], object]
T = TypeVar("T")

CHANNEL_ERRORS = (RuntimeError, OSError)
"""Another end is gone, or does not answer in time."""
JOIN_TIMEOUT_S = 60.0
"""All ends are up when they are told to meet."""


class Channel(Protocol):
    """One end of it."""

    def send(self, manifest: WeightsManifest, weights: Weights) -> None:
        """Sends what the manifest says, in its order; returns when it has left.

        Raises:
            RuntimeError, OSError: see `CHANNEL_ERRORS`.
        """
        ...

    def receive(self, manifest: WeightsManifest, load: Load) -> None:
        """Hands each part to `load`, which may keep it.

        Raises:
            RuntimeError, OSError: as `send`; and what `load` raises.
        """
        ...

    def close(self) -> None:
        """Leaves; what other ends do on it fails from then on."""
        ...


def parts(sized: Iterable[tuple[T, int]], limit_bytes: int) -> Iterator[list[T]]:
    """Runs of items, each ended by the item that fills it; both ends cut alike."""
    part: list[T] = []
    num_bytes = 0
    for item, size in sized:
        part.append(item)
        num_bytes += size
        if num_bytes >= limit_bytes:
            yield part
            part, num_bytes = [], 0
    if part:
        yield part

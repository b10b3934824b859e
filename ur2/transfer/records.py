"""Records that tell an engine about weights that it is to take."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ur2.errors import ComponentError

if TYPE_CHECKING:
    import torch

PART_BYTES = 1 << 28
ChannelName = Literal["nccl", "tcp", "ipc"]


class ChannelError(ComponentError):
    """Weights did not come through; the engine itself is well and can try again."""


@dataclass(frozen=True, slots=True)
class WeightFolder:
    """Weights that lie in a folder."""

    path: str
    """With one or more `*.safetensors`, Hugging Face parameter names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendezvous:
    """Where the policy and engines open a channel between them."""

    channel: ChannelName
    address: str
    """The address of policy rank 0, which is rank 0 of the channel."""
    port: int
    """On which it listens."""
    num_ranks: int
    """Policy rank 0 and the processes of all engines that meet."""
    first_rank: int
    """The first rank of the processes that are told this."""
    timeout_s: float
    """Longest wait for one part of the weights."""
    secret: str = field(repr=False)
    """By which those who were told of the rendezvous know one another."""
    part_bytes: int = PART_BYTES
    """Size of a part, which the tensor that fills it may exceed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsManifest:
    """The tensors that a channel will carry, in order."""

    names: tuple[str, ...]
    """Hugging Face parameter names."""
    dtypes: tuple[str, ...]
    """Names of torch dtypes, such as bfloat16."""
    shapes: tuple[tuple[int, ...], ...]
    """Shapes of whole tensors."""
    verified: bool = False
    """Whether their checksums follow as one more tensor."""

    def tensors(self) -> "Iterator[tuple[str, tuple[int, ...], torch.dtype]]":
        """Name, shape and dtype of each, that of the checksums included."""
        import torch

        from ur2.transfer.checks import CHECKSUM_BYTES, CHECKSUMS

        for name, dtype, shape in zip(self.names, self.dtypes, self.shapes, strict=True):
            yield name, tuple(shape), getattr(torch, dtype)
        if self.verified:
            yield CHECKSUMS, (CHECKSUM_BYTES * len(self.names),), torch.uint8

    def buffer_bytes(self, part_bytes: int) -> int:
        """The size of a buffer for parts into which every tensor fits."""
        return max(
            part_bytes, *(math.prod(shape) * dtype.itemsize for _, shape, dtype in self.tensors())
        )


Handover = WeightFolder | Rendezvous | WeightsManifest
"""Weights in a folder, an end of a channel to open, or what will come over the open channel."""

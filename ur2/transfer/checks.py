"""Whether engines hold what the policy published."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from ur2.checksums import checksum
from ur2.errors import ComponentError

if TYPE_CHECKING:
    import torch

CHECKSUMS = "ur2.checksums"
"""Name of the tensor that carries them over a channel: as bytes, in the order of the weights."""
CHECKSUM_BYTES = 8
NUM_FIRST = 2
MAX_NAMED = 5


def is_verified(which: Literal["first", "always", "never"], num_before: int) -> bool:
    """Whether engines verify a sync that so many came before."""
    return which == "always" or (which == "first" and num_before < NUM_FIRST)


def with_checksums(
    weights: "Iterable[tuple[str, torch.Tensor]]", device: "torch.device"
) -> "Iterator[tuple[str, torch.Tensor]]":
    """The weights, and after them their checksums."""
    import torch

    sums = []
    for name, tensor in weights:
        sums.append(checksum(tensor))
        yield name, tensor
    yield CHECKSUMS, torch.from_numpy(np.array(sums, dtype=np.uint64).view(np.uint8)).to(device)


def read_sums(names: Sequence[str], tensor: "torch.Tensor") -> dict[str, int]:
    """Checksum by name, from what `with_checksums` sent."""
    sums = np.frombuffer(tensor.cpu().numpy().tobytes(), dtype=np.uint64)
    return dict(zip(names, sums.tolist(), strict=True))


def damaged(weights: "Mapping[str, torch.Tensor]", published: Mapping[str, int]) -> list[str]:
    """Names whose tensors are not what was published."""
    return differing({name: checksum(tensor) for name, tensor in weights.items()}, published)


def differing(sums: Mapping[str, int], published: Mapping[str, int]) -> list[str]:
    """Names that have another checksum, or are on one side only."""
    return sorted(n for n in sums.keys() | published.keys() if sums.get(n) != published.get(n))


def refuse_differing(*differing: Sequence[str], source: str, version: int) -> None:
    """Ends an update after which some tensors are not what was published.

    Raises:
        ComponentError: names them.
    """
    names = sorted({name for of_rank in differing for name in of_rank})
    if names:
        shown = ", ".join(names[:MAX_NAMED]) + (", ..." if names[MAX_NAMED:] else "")
        raise ComponentError(
            f"weights {version} {source} are not what the policy published: {shown}; see that "
            "nothing else writes there, or, where the engine changes such weights as it loads "
            "them, set policy.verify_weights=never"
        )

"""Reading published weights: a directory of safetensors buckets."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ur2.checksums import KEY, checksum
from ur2.errors import ComponentError, InputError

if TYPE_CHECKING:
    import torch

MAX_NAMED = 5


def weight_files(path: str) -> list[Path]:
    """The `*.safetensors` of directory `path`, in name order.

    Raises:
        InputError: there are none.
    """
    files = sorted(Path(path).glob("*.safetensors"))
    if not files:
        raise InputError(f"no weights in '{path}': expected a directory with *.safetensors files")
    return files


def read_weights(path: str) -> "Iterator[tuple[str, torch.Tensor]]":
    """Yields (Hugging Face parameter name, tensor on CPU), one tensor in memory at a time."""
    from safetensors import safe_open

    for file in weight_files(path):
        with safe_open(file, framework="pt") as bucket:
            for name in bucket.keys():  # noqa: SIM118 - not a mapping
                yield name, bucket.get_tensor(name)


def read_checksums(path: str) -> dict[str, int]:
    """Checksum by name, as the policy published it; empty where it asks for no comparison."""
    from safetensors import safe_open

    published: dict[str, int] = {}
    for file in weight_files(path):
        with safe_open(file, framework="pt") as bucket:
            published.update(json.loads((bucket.metadata() or {}).get(KEY, "{}")))
    return published


def damaged(weights: "Mapping[str, torch.Tensor]", published: Mapping[str, int]) -> list[str]:
    """Names whose tensors are not what was published."""
    return sorted(
        name
        for name in weights.keys() | published.keys()
        if name not in weights or checksum(weights[name]) != published.get(name)
    )


def refuse_differing(*differing: Sequence[str], path: str, version: int) -> None:
    """Ends an update after which some tensors are not what was published.

    Raises:
        ComponentError: names them.
    """
    names = sorted({name for of_rank in differing for name in of_rank})
    if names:
        shown = ", ".join(names[:MAX_NAMED]) + (", ..." if names[MAX_NAMED:] else "")
        raise ComponentError(
            f"weights {version} in '{path}' are not what the policy published: {shown}; see that "
            "nothing else writes there, or, where the engine changes such weights as it loads "
            "them, set policy.verify_weights=never"
        )

"""Reading published weights: a directory of safetensors buckets."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ur2.errors import InputError

if TYPE_CHECKING:
    import torch


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

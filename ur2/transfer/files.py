"""The way through files: a directory of safetensors buckets, best in shared memory."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ur2.checksums import KEY, checksum
from ur2.errors import InputError
from ur2.transfer.staging import reveal, stage

if TYPE_CHECKING:
    import torch


def write_published(
    parts: "Iterator[Mapping[str, torch.Tensor]]",
    folder: Path,
    version: int,
    *,
    checksums: bool = False,
) -> None:
    """Writes safetensors files into `folder`, which appears only when all of them are there.

    With `checksums`, engines hold what they load against what leaves here.
    """
    from safetensors.torch import save_file

    staged = stage(folder)
    for number, part in enumerate(parts):
        metadata = {"version": str(version)}
        if checksums:
            metadata[KEY] = json.dumps({name: checksum(tensor) for name, tensor in part.items()})
        save_file(dict(part), staged / f"weights-{number:05d}.safetensors", metadata)
    reveal(staged, folder)


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

"""Weights on disk: published for the engines, and exported as a Hugging Face folder."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from safetensors.torch import save_file
from torch import Tensor

from ur2.checksums import KEY, checksum

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "chat_template*",
)
NUM_FIRST = 2


def is_verified(which: Literal["first", "always", "never"], num_before: int) -> bool:
    """Whether engines verify a sync that so many came before."""
    return which == "always" or (which == "first" and num_before < NUM_FIRST)


def write_published(
    parts: Iterator[Mapping[str, Tensor]], folder: Path, version: int, *, checksums: bool = False
) -> None:
    """Writes safetensors files into `folder`, which appears only when all of them are there.

    With `checksums`, engines hold what they load against what leaves here.
    """
    staged = _stage(folder)
    for number, part in enumerate(parts):
        metadata = {"version": str(version)}
        if checksums:
            metadata[KEY] = json.dumps({name: checksum(tensor) for name, tensor in part.items()})
        save_file(dict(part), staged / f"weights-{number:05d}.safetensors", metadata)
    _reveal(staged, folder)


def write_exported(
    weights: Mapping[str, Tensor], lm: "PreTrainedModel", source: Path, folder: Path
) -> None:
    """Writes a folder that loads like `source`, with other weights."""
    staged = _stage(folder)
    lm.save_pretrained(staged, state_dict=dict(weights))
    for pattern in TOKENIZER_FILES:
        for file in source.glob(pattern):
            shutil.copy(file, staged / file.name)
    _reveal(staged, folder)


def model_folder(path: str, revision: str | None) -> Path:
    """Where the files of a model lie on this machine."""
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(path, revision=revision))


def _stage(folder: Path) -> Path:
    staged = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    return staged


def _reveal(staged: Path, folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    staged.rename(folder)

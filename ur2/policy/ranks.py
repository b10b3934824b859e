"""Small things that a rank says to the others, and its random state."""

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ur2.errors import InputError

T = TypeVar("T")
K = TypeVar("K")


def gather_objects(mine: T) -> list[T]:
    """The objects of all ranks, in rank order; a collective call."""
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return everyone


def merge(parts: Iterable[Mapping[K, T]]) -> dict[K, T]:
    """One dict of all parts."""
    merged: dict[K, T] = {}
    for part in parts:
        merged.update(part)
    return merged


def rng_state() -> dict[str, torch.Tensor]:
    """The random state of torch in this process."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_rng(file: Path) -> None:
    """Restores what `rng_state` returned, from the file it was saved to.

    Raises:
        InputError: the file is damaged.
    """
    try:
        state: dict[str, torch.Tensor] = torch.load(file, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise damaged(file, error) from error
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])


def damaged(file: Path, error: Exception) -> InputError:
    """The error of a checkpoint's file that cannot be read."""
    reason = str(error).partition("\n")[0] or "it is empty"
    return InputError(
        f"resume: {file} is damaged or cut short ({reason}); remove that checkpoint, or name "
        "another one with resume=PATH"
    )

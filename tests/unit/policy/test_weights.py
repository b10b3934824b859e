"""Weights appear whole or not at all."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from ur2.policy.weights import is_verified, write_published


def parts(*, fail: bool = False) -> Iterator[dict[str, Tensor]]:
    yield {"a": torch.ones(2)}
    if fail:
        raise RuntimeError("a rank died")
    yield {"b": torch.zeros(3)}


def test_all_parts_are_there_with_their_version(tmp_path: Path) -> None:
    folder = tmp_path / "v3"
    write_published(parts(), folder, 3)
    files = sorted(folder.iterdir())
    assert [sorted(load_file(file)) for file in files] == [["a"], ["b"]]
    with safe_open(files[0], framework="pt") as first:
        assert first.metadata() == {"version": "3"}
    assert [p.name for p in tmp_path.iterdir()] == ["v3"]


def test_a_failure_on_the_way_leaves_the_old_weights(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    write_published(parts(), folder, 1)
    with pytest.raises(RuntimeError):
        write_published(parts(fail=True), folder, 2)
    with safe_open(folder / "weights-00000.safetensors", framework="pt") as first:
        assert first.metadata() == {"version": "1"}
    assert len(list(folder.iterdir())) == 2


def test_publishing_again_replaces_what_was_there(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    write_published(parts(), folder, 1)
    write_published(iter([{"c": torch.ones(1)}]), folder, 2)
    assert [sorted(load_file(file)) for file in folder.iterdir()] == [["c"]]


@pytest.mark.parametrize(
    ("which", "verified"), [("first", [1, 1, 0, 0]), ("always", [1] * 4), ("never", [0] * 4)]
)
def test_the_first_syncs_are_verified_or_all_or_none(which: str, verified: list[int]) -> None:
    assert [is_verified(which, before) for before in range(4)] == verified  # type: ignore[arg-type]

"""Published weights appear whole or not at all, and every bucket of them is read."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ur2.errors import ComponentError, InputError
from ur2.transfer.checks import damaged, is_verified, refuse_differing
from ur2.transfer.files import read_checksums, read_weights, write_published


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


def test_all_buckets_of_a_directory_are_read(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2), "b": torch.zeros(1)}, tmp_path / "0.safetensors")
    save_file({"c": torch.full((3,), 2.0)}, tmp_path / "1.safetensors")
    read = dict(read_weights(str(tmp_path)))
    assert sorted(read) == ["a", "b", "c"]
    assert torch.equal(read["c"], torch.full((3,), 2.0))


def test_a_directory_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=str(tmp_path)):
        list(read_weights(str(tmp_path)))


def test_damage_between_policy_and_engine_is_named(tmp_path: Path) -> None:
    weights = {"a": torch.ones(2), "b": torch.zeros(1), "c": torch.ones(1)}
    folder = tmp_path / "v7"
    write_published(iter([weights, {"d": torch.ones(3)}]), folder, 7, checksums=True)
    published = read_checksums(str(folder))
    read = dict(read_weights(str(folder)))
    assert damaged(read, published) == []
    assert damaged({**read, "a": torch.tensor([1.0, 1.0000001])}, published) == ["a"]
    assert damaged({n: t for n, t in read.items() if n != "d"}, published) == ["d"]
    with pytest.raises(ComponentError, match=r"weights 7 .*v7.* published: a, d"):
        refuse_differing(["d", "a"], ["a"], source=f"in '{folder}'", version=7)
    refuse_differing([], [], source=f"in '{folder}'", version=7)


def test_weights_published_without_checksums_are_not_compared(tmp_path: Path) -> None:
    write_published(iter([{"a": torch.ones(2)}]), tmp_path / "v1", 1)
    assert read_checksums(str(tmp_path / "v1")) == {}

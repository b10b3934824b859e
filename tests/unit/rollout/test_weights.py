import pytest
import torch
from safetensors.torch import save_file

from ur2.errors import ComponentError, InputError
from ur2.policy.weights import write_published
from ur2.rollout.engines.weights import damaged, read_checksums, read_weights, refuse_differing


def test_all_buckets_of_a_directory_are_read(tmp_path):
    save_file({"a": torch.ones(2), "b": torch.zeros(1)}, tmp_path / "0.safetensors")
    save_file({"c": torch.full((3,), 2.0)}, tmp_path / "1.safetensors")
    read = dict(read_weights(str(tmp_path)))
    assert sorted(read) == ["a", "b", "c"]
    assert torch.equal(read["c"], torch.full((3,), 2.0))


def test_a_directory_without_weights_is_named(tmp_path):
    with pytest.raises(InputError, match=str(tmp_path)):
        list(read_weights(str(tmp_path)))


def test_damage_between_policy_and_engine_is_named(tmp_path):
    weights = {"a": torch.ones(2), "b": torch.zeros(1), "c": torch.ones(1)}
    folder = tmp_path / "v7"
    write_published(iter([weights, {"d": torch.ones(3)}]), folder, 7, checksums=True)
    published = read_checksums(str(folder))
    read = dict(read_weights(str(folder)))
    assert damaged(read, published) == []
    assert damaged({**read, "a": torch.tensor([1.0, 1.0000001])}, published) == ["a"]
    assert damaged({n: t for n, t in read.items() if n != "d"}, published) == ["d"]
    with pytest.raises(ComponentError, match=r"weights 7 .*v7.* published: a, d"):
        refuse_differing(["d", "a"], ["a"], path=str(folder), version=7)
    refuse_differing([], [], path=str(folder), version=7)


def test_weights_published_without_checksums_are_not_compared(tmp_path):
    write_published(iter([{"a": torch.ones(2)}]), tmp_path / "v1", 1)
    assert read_checksums(str(tmp_path / "v1")) == {}

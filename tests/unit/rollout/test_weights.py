import pytest
import torch
from safetensors.torch import save_file

from ur2.errors import InputError
from ur2.rollout.engines.weights import read_weights


def test_all_buckets_of_a_directory_are_read(tmp_path):
    save_file({"a": torch.ones(2), "b": torch.zeros(1)}, tmp_path / "0.safetensors")
    save_file({"c": torch.full((3,), 2.0)}, tmp_path / "1.safetensors")
    read = dict(read_weights(str(tmp_path)))
    assert sorted(read) == ["a", "b", "c"]
    assert torch.equal(read["c"], torch.full((3,), 2.0))


def test_a_directory_without_weights_is_named(tmp_path):
    with pytest.raises(InputError, match=str(tmp_path)):
        list(read_weights(str(tmp_path)))

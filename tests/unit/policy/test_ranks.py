from pathlib import Path

import pytest
import torch

from ur2.errors import InputError
from ur2.policy.ranks import restore_rng, rng_state


def test_random_states_come_back(tmp_path: Path) -> None:
    torch.save(rng_state(), tmp_path / "rng.pt")
    drawn = torch.rand(3)
    restore_rng(tmp_path / "rng.pt")
    assert torch.equal(torch.rand(3), drawn)


@pytest.mark.parametrize("length", [0, 100])
def test_a_cut_file_is_named(length: int, tmp_path: Path) -> None:
    file = tmp_path / "rng.pt"
    torch.save(rng_state(), file)
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(InputError, match=r"rng\.pt is damaged or cut short"):
        restore_rng(file)

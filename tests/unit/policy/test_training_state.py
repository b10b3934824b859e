import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Parameter

os.environ.setdefault("DS_ACCELERATOR", "cpu")  # deepspeed reads it when imported

from ur2.errors import InputError
from ur2.policy.training_state import load_states


class Kept:
    """States that only remember."""

    def __init__(self) -> None:
        self.written: list[Mapping[str, Tensor]] = []

    def begin_reading(self) -> int:
        return 0

    def begin_writing(self, steps: int) -> None:
        self.steps = steps

    def read(self, parameter: Parameter) -> Mapping[str, Tensor]:
        return {"master": parameter}

    def write(self, parameter: Parameter, values: Mapping[str, Tensor]) -> None:
        self.written.append(values)


def test_a_state_that_was_cut_short_is_named_and_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"adam_steps": 3}')
    file = tmp_path / "state-00000.safetensors"
    save_file({"w/master": torch.ones(50)}, file)
    parameters, states = {"w": Parameter(torch.zeros(50))}, Kept()
    load_states(states, parameters, tmp_path)
    assert (states.steps, len(states.written)) == (3, 1)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"safetensors is damaged or cut short .* resume=PATH"):
        load_states(states, parameters, tmp_path)
    assert len(states.written) == 1

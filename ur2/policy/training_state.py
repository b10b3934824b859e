"""Training state that knows nothing of ranks: masters and optimizer states, whole, by parameter.

Whatever saved it, it loads on any number of ranks and under any ZeRO stage. Ranks take turns at
writing its files, and each reads of them what it keeps. With `engine`, the only home of deepspeed.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from deepspeed.runtime.zero.partition_parameters import GatheredParameters
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer

from ur2.errors import InputError
from ur2.policy.optimizers import OptimizerPair
from ur2.policy.ranks import damaged

MASTER = "master"
MOMENTS = ("exp_avg", "exp_avg_sq")
FACTS = "state.json"
MAX_FILE_BYTES = 1 << 30
MAX_NAMED = 5
Parameters = Mapping[str, Parameter]
Values = Mapping[str, Tensor]
"""`master` and the optimizer's tensors of one parameter, in its shape."""


class States(Protocol):
    """The optimizer states of each parameter; all calls are collective."""

    def begin_reading(self) -> int:
        """Before a `read`; returns how many steps Adam has taken."""

    def begin_writing(self, steps: int) -> None:
        """Before a `write`: Adam has taken this many steps."""

    def read(self, parameter: Parameter) -> Values:
        """All of it; without the optimizer's where no step has been taken."""

    def write(self, parameter: Parameter, values: Values) -> None:
        """Takes what `read` returned, elsewhere."""


class WholeStates:
    """States of a torch optimizer whose parameters are whole on every rank."""

    def __init__(self, optimizer: Optimizer) -> None:
        parts = optimizer.parts if isinstance(optimizer, OptimizerPair) else (optimizer,)
        self._owners = {
            parameter: part
            for part in parts
            for group in part.param_groups
            for parameter in group["params"]
        }
        self._steps = 0

    def begin_reading(self) -> int:
        """The steps that Adam has taken."""
        counts = (owner.state[p]["step"] for p, owner in self._owners.items() if _counts(owner, p))
        return int(next(counts, 0))

    def begin_writing(self, steps: int) -> None:
        """Notes the steps that Adam has taken, for states that are written next."""
        self._steps = steps

    def read(self, parameter: Parameter) -> Values:
        """The master and the optimizer's tensors of one parameter, uncopied."""
        state = self._owners[parameter].state.get(parameter, {})
        return {MASTER: parameter, **{k: v for k, v in state.items() if k != "step"}}

    def write(self, parameter: Parameter, values: Values) -> None:
        """Puts one parameter's states in the place of those that are there."""
        owner = self._owners[parameter]
        parameter.data.copy_(values[MASTER])
        state: dict[str, Any] = {
            k: v.to(parameter.device, copy=True) for k, v in values.items() if k != MASTER
        }
        if state and isinstance(owner, AdamW):
            state["step"] = torch.tensor(float(self._steps), device=parameter.device)
        owner.state[parameter] = state


class ShardedStates:
    """States of AdamW under ZeRO, through DeepSpeed's own view of its partitions."""

    def __init__(self, optimizer: Any, stage: int) -> None:
        """Takes DeepSpeed's optimizer."""
        self._zero = optimizer
        self._stage = stage
        self._state = optimizer.optimizer.state
        self._flats: Sequence[Tensor] = (
            optimizer.fp32_partitioned_groups_flat
            if stage == 3
            else optimizer.single_partition_of_fp32_groups
        )
        self._steps = 0

    def begin_reading(self) -> int:
        """The steps that Adam has taken."""
        self._steps = int(self._state.get(self._flats[0], {}).get("step", 0))
        self._link()
        return self._steps

    def begin_writing(self, steps: int) -> None:
        """Notes the steps that Adam has taken, for states that are written next."""
        self._steps = steps
        if steps:
            for flat in self._flats:
                moments = {key: torch.zeros_like(flat) for key in MOMENTS}
                count = torch.tensor(float(steps), device=flat.device)
                self._state[flat] = {"step": count, **moments}
        self._link()

    def _link(self) -> None:
        """Lets DeepSpeed find a parameter's moments.

        It links them itself when only the first of its groups has taken a step.
        """
        if self._stage < 3 and self._steps:
            self._zero._hp_optimizer_states_linked = False
            self._zero._lazy_init_hp_params_optimizer_state()

    def read(self, parameter: Parameter) -> Values:
        """Gathers the states of one parameter from all ranks."""
        keys = MOMENTS if self._steps else ()
        moments = {key: safe_get_full_optimizer_state(parameter, key) for key in keys}
        return {MASTER: safe_get_full_fp32_param(parameter), **moments}

    def write(self, parameter: Parameter, values: Values) -> None:
        """Puts one parameter's states in the place of those that are there, each rank its part."""
        with GatheredParameters([parameter], modifier_rank=0, enabled=self._stage == 3):
            if self._stage < 3 or dist.get_rank() == 0:
                parameter.data.copy_(values[MASTER])
        for key, value in values.items():
            if self._stage < 3 and key == MASTER:
                safe_set_full_fp32_param(parameter, value)
            elif self._stage < 3:
                safe_set_full_optimizer_state(parameter, value, key)
            elif key == MASTER:
                safe_set_local_fp32_param(parameter, _own_part(parameter, value))
            else:
                safe_set_local_optimizer_state(parameter, _own_part(parameter, value), key)


def save_states(
    states: States, parameters: Parameters, folder: Path, facts: Mapping[str, Any]
) -> None:
    """Writes the states of `parameters`, and `facts`, into `folder`; a collective call."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    folder.mkdir(parents=True, exist_ok=True)
    steps = states.begin_reading()
    for number, names in enumerate(_parts(parameters)):
        mine = number % world_size == rank
        kept: dict[str, Tensor] = {}
        for name in names:
            values = states.read(parameters[name])
            if mine:
                kept |= {
                    f"{name}/{key}": value.detach().to("cpu", copy=True)
                    for key, value in values.items()
                }
        if mine:
            save_file(kept, folder / f"state-{number:05d}.safetensors")
    if rank == 0:
        (folder / FACTS).write_text(json.dumps({**facts, "adam_steps": steps}))
    dist.barrier()


def load_states(states: States, parameters: Parameters, folder: Path) -> None:
    """Restores what `save_states` wrote; a collective call.

    Raises:
        InputError: it is of other parameters, or damaged.
    """
    states.begin_writing(read_facts(folder)["adam_steps"])
    with ExitStack() as opened:
        where: dict[str, dict[str, Any]] = {}
        for path in sorted(folder.glob("state-*.safetensors")):
            try:
                file = opened.enter_context(safe_open(path, framework="pt"))
            except SafetensorError as error:
                raise damaged(path, error) from error
            for entry in file.keys():  # noqa: SIM118 - not a mapping
                name, key = entry.rsplit("/", 1)
                where.setdefault(name, {})[key] = file
        if differing := sorted(where.keys() ^ parameters.keys()):
            raise InputError(_misfit(folder, differing))
        for name, parameter in parameters.items():
            values = {key: file.get_tensor(f"{name}/{key}") for key, file in where[name].items()}
            if values[MASTER].shape != getattr(parameter, "ds_shape", parameter.shape):
                raise InputError(_misfit(folder, [name]))
            states.write(parameter, values)


def read_facts(folder: Path) -> dict[str, Any]:
    """The `facts` of `save_states`.

    Raises:
        InputError: there are none.
    """
    try:
        facts: dict[str, Any] = json.loads((folder / FACTS).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"resume: {folder} holds no policy checkpoint ({error})") from error
    return facts


def _misfit(folder: Path, names: Sequence[str]) -> str:
    shown = ", ".join(names[:MAX_NAMED]) + (", ..." if names[MAX_NAMED:] else "")
    return (
        f"resume: {folder} was written for another model or other adapters ({shown}); set model "
        "and policy.lora as they were, or start anew with resume=none"
    )


def _parts(parameters: Parameters) -> Iterator[list[str]]:
    """Names of the parameters whose states fill a file."""
    part: list[str] = []
    size = 0
    for name, parameter in parameters.items():
        num_bytes = 4 * (1 + len(MOMENTS)) * getattr(parameter, "ds_numel", parameter.numel())
        if part and size + num_bytes > MAX_FILE_BYTES:
            yield part
            part, size = [], 0
        part.append(name)
        size += num_bytes
    yield part


def _own_part(parameter: Any, value: Tensor) -> Tensor:
    """This rank's part of `value`, filled up with zeros as ZeRO-3 does it."""
    size = parameter.ds_tensor.numel()
    start = dist.get_rank() * size
    part = value.flatten()[start : start + size]
    return torch.nn.functional.pad(part, (0, size - part.numel()))


def _counts(owner: Optimizer, parameter: Parameter) -> bool:
    return isinstance(owner, AdamW) and bool(owner.state.get(parameter))

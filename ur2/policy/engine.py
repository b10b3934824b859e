"""A model sharded over ranks, stepped with our own denominators.

With `training_state` the only home of deepspeed.
"""

import logging
import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ur2.errors import InputError
from ur2.policy.deepspeed_config import deepspeed_config
from ur2.policy.model.lora import Weight, adapters_off, weights_of
from ur2.policy.model.models import CriticModel, PolicyModel
from ur2.policy.optimizers import make_optimizer
from ur2.policy.options import PolicyOptions
from ur2.transfer.records import WeightsManifest

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed  # it reads DS_ACCELERATOR here
from deepspeed.runtime.zero.partition_parameters import GatheredParameters

from ur2.policy.training_state import (
    ShardedStates,
    WholeStates,
    load_states,
    read_facts,
    save_states,
)


def join_ranks(rank: int, world_size: int, master_address: str, master_port: int) -> torch.device:
    """Joins the process group of all ranks and returns this rank's device."""
    deepspeed.utils.logger.setLevel(logging.WARNING)
    # an op for tensor-parallel inference on CPU that takes half a minute to build; training never
    # calls it
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    on_gpu = torch.cuda.is_available()
    local_rank = rank % torch.cuda.device_count() if on_gpu else rank
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_RANK=str(local_rank),
        MASTER_ADDR=master_address,
        MASTER_PORT=str(master_port),
    )
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    deepspeed.init_distributed("nccl" if on_gpu else "gloo", verbose=False)
    return device


class TrainEngine:
    """Forward, backward, step, gather and checkpoint of one rank; all calls are collective."""

    def __init__(
        self, model: PolicyModel | CriticModel, options: PolicyOptions, device: torch.device
    ) -> None:
        self.model = model
        self.device = device
        self.options = options
        self.stage = options.zero_stage
        self.max_grad_norm = options.max_grad_norm
        self.world_size = dist.get_world_size()
        optimizer = make_optimizer(model, options)
        self._learning_rates = [group["lr"] for group in optimizer.param_groups]
        self._engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            config=deepspeed_config(
                options,
                num_parameters=sum(p.numel() for p in model.parameters()),
                on_gpu=device.type == "cuda",
            ),
            dist_init_required=False,
        )
        self._trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._states = (
            ShardedStates(self._engine.optimizer, self.stage)
            if self.stage
            else WholeStates(self._engine.optimizer)
        )

    def forward(self, *inputs: Any) -> Any:
        """Passes on to the model's own `forward`."""
        with _precision(self.options, self.device):
            return self._engine(*inputs)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Adds the gradient of this rank's part of the loss; `last` before a step."""
        self._engine.set_gradient_accumulation_boundary(last)
        # the engine averages over ranks, and our denominators already count all of them
        self._engine.backward(loss * self.world_size, scale_wrt_gas=False)

    def step(self, learning_rate_factor: float) -> tuple[float, bool]:
        """Clips and applies the gradient; a gradient that is not finite is dropped instead.

        Returns:
            The gradient's norm before clipping, and whether the weights moved.
        """
        groups = self._engine.optimizer.param_groups
        for group, learning_rate in zip(groups, self._learning_rates, strict=True):
            group["lr"] = learning_rate * learning_rate_factor
        if self.stage:
            self._engine.step()
            return float(self._engine.get_global_grad_norm()), self._engine.was_step_applied()
        limit = self.max_grad_norm or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit))
        if math.isfinite(norm):
            self._engine.step()
        else:
            self._engine.zero_grad()
        return norm, math.isfinite(norm)

    def weights(
        self, max_bytes: int, device: torch.device | str = "cpu", *, everywhere: bool = False
    ) -> Iterator[dict[str, Tensor]]:
        """Copies of all weights by Hugging Face name, adapters merged, in parts of `max_bytes`.

        Every rank must take every part; those of ranks other than 0 are empty, or `everywhere`
        full.
        """
        wanted = everywhere or dist.get_rank() == 0
        for part in _parts(self.model, max_bytes):
            parameters = [p for weight in part for p in weight.parameters]
            with GatheredParameters(parameters, enabled=self.stage == 3):
                yield {w.name: w.merged(device) for w in part if wanted}

    def manifest(self) -> WeightsManifest:
        """Names, dtypes and shapes of what `weights` yields, without gathering it."""
        weights = list(weights_of(self.model.lm))
        parameters = [weight.parameter for weight in weights]
        return WeightsManifest(
            names=tuple(weight.name for weight in weights),
            dtypes=tuple(str(p.dtype).removeprefix("torch.") for p in parameters),
            # a sharded parameter has its whole shape in ds_shape
            shapes=tuple(tuple(getattr(p, "ds_shape", p.shape)) for p in parameters),
        )

    def save(self, folder: Path, facts: dict[str, Any]) -> None:
        """Writes masters, optimizer and `facts`, for any number of ranks and stage to load."""
        facts = {**facts, "optimizer": self.options.optimizer}
        save_states(self._states, self._trained, folder, facts)

    def load(self, folder: Path) -> dict[str, Any]:
        """Restores what `save` wrote and returns its `facts`.

        Raises:
            InputError: there is no such checkpoint, or it is of another model or optimizer.
        """
        facts = read_facts(folder)
        if facts["optimizer"] != self.options.optimizer:
            raise InputError(
                f"resume: {folder} was written with policy.optimizer={facts['optimizer']}; set it "
                "so, or start anew with resume=none"
            )
        load_states(self._states, self._trained, folder)
        return facts

    def close(self) -> None:
        """Leaves the process group."""
        self._engine.destroy()
        dist.destroy_process_group()


class FrozenEngine:
    """A model that only computes; its weights are sharded where the policy's are."""

    def __init__(self, model: PolicyModel, options: PolicyOptions, device: torch.device) -> None:
        self.options = options
        self.device = device
        model.requires_grad_(False)
        self._model: Any = model.to(device)
        if options.zero_stage == 3:
            config = deepspeed_config(
                options.model_copy(update={"offload": "none"}),
                num_parameters=sum(p.numel() for p in model.parameters()),
                on_gpu=device.type == "cuda",
            )
            self._model, *_ = deepspeed.initialize(
                model=model, config=config, dist_init_required=False
            )

    @torch.no_grad()
    def forward(self, *inputs: Any) -> Any:
        """Passes on to the model's own `forward`."""
        with _precision(self.options, self.device):
            return self._model(*inputs)


class BaseEngine:
    """The model of another engine with its adapters off: what training started from."""

    def __init__(self, engine: TrainEngine) -> None:
        self._engine = engine

    @torch.no_grad()
    def forward(self, *inputs: Any) -> Any:
        """Passes on to the model's own `forward`."""
        with adapters_off(self._engine.model):
            return self._engine.forward(*inputs)


def _precision(options: PolicyOptions, device: torch.device) -> AbstractContextManager[Any]:
    if options.precision == "fp32" or options.zero_stage:
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _parts(model: PolicyModel | CriticModel, max_bytes: int) -> Iterator[list[Weight]]:
    """Weights of the language model in groups of about `max_bytes`."""
    part: list[Weight] = []
    size = 0
    for weight in weights_of(model.lm):
        parameter = weight.parameter
        # a sharded parameter has its whole size in ds_numel
        num_bytes = getattr(parameter, "ds_numel", parameter.numel()) * parameter.element_size()
        if part and size + num_bytes > max_bytes:
            yield part
            part, size = [], 0
        part.append(weight)
        size += num_bytes
    yield part

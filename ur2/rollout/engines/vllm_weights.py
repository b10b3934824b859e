"""New weights inside vllm's own processes, one per tensor-parallel rank."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from vllm.distributed.weight_transfer.base import WeightTransferEngine
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

from ur2.checksums import checksum
from ur2.rollout.engines.vllm_reload import Reloader
from ur2.transfer.channel import CHANNEL_ERRORS, Channel
from ur2.transfer.channels import CHANNELS
from ur2.transfer.checks import CHECKSUMS, damaged, differing, read_sums
from ur2.transfer.files import read_checksums, read_weights
from ur2.transfer.records import Rendezvous, WeightsManifest

T = TypeVar("T")

BACKEND = "ur2"
"""The name by which vllm finds `ChannelEngine`."""
MISFITS = (AssertionError, KeyError, ValueError, RuntimeError, OSError)
"""Errors that models raise at weights that are not theirs."""


class ChannelEngine(WeightTransferEngine):  # type: ignore[misc]
    """Takes weights that come over a channel; vllm makes it and calls it in each process.

    Exceptions lose their type on the way to the caller, and would end the update before its end:
    failures are kept, and asked for when it is over.
    """

    init_info_cls = Rendezvous
    update_info_cls = WeightsManifest
    supports_draft_weight_update = False

    def __init__(
        self, config: Any, vllm_config: Any, device: torch.device, model: nn.Module
    ) -> None:
        super().__init__(config, vllm_config, device, model)
        self._reloader = Reloader(model, vllm_config)
        self._channel: Channel | None = None
        self._is_begun = False
        self._published: dict[str, int] = {}
        self._arrived: dict[str, int] = {}
        self._sums: dict[tuple[str, torch.dtype], int] = {}
        self.broken = ""
        """The fault of the channel; empty where there is none."""
        self.problem = ""
        """The fault of the weights; empty where there is none."""

    def init_transfer_engine(self, init_info: Rendezvous) -> None:
        """Opens a channel, in the place of an earlier one."""
        self.shutdown()
        self.broken = ""
        rank = init_info.first_rank + self.parallel_config.rank
        try:
            self._channel = CHANNELS[init_info.channel](init_info, rank, self.device)
        except CHANNEL_ERRORS as error:
            self.broken = f"{type(error).__name__}: {error}"

    def start_weight_update(self) -> None:
        """Forgets the last update; the next begins with its manifest."""
        self.problem = ""
        self._published, self._arrived, self._sums = {}, {}, {}

    def receive_weights(self, update_info: WeightsManifest) -> None:
        """Loads what comes, to the end, so that the policy can send it to others."""
        if self._channel is None:
            return

        def take(part: list[tuple[str, Tensor]]) -> None:
            weights = dict(part)
            if (checksums := weights.pop(CHECKSUMS, None)) is not None:
                self._published = read_sums(update_info.names, checksums)
            if update_info.verified:
                self._add_up(weights)
            if not self.problem:
                self._note(self._reloader.load, list(weights.items()))

        self._is_begun = True
        self._note(self._reloader.begin, update_info.names)
        try:
            self._channel.receive(update_info, take)
        except CHANNEL_ERRORS as error:
            self.broken = f"{type(error).__name__}: {error}"
            self.shutdown()  # the policy need not wait for this process

    def finish_weight_update(self) -> None:
        """Makes the model whole again, under whatever weights it got."""
        if not self._is_begun:
            return
        self._is_begun = False
        missing = self._note(self._reloader.finish)
        if missing and not self.broken:
            self.problem = self.problem or f"missing {', '.join(missing)}"

    def differing(self) -> list[str]:
        """Tensors that did not arrive as they were sent, or that the model does not hold so."""
        if not self._published or self.broken or self.problem:
            return []
        return differing(self._arrived, self._published) or self._reloader.differing(
            lambda name, dtype: self._sums[name, dtype]
        )

    def _note(self, step: Callable[..., T], *args: Any) -> T | None:
        """Takes one step of an update; the first failure is kept."""
        try:
            return step(*args)
        except MISFITS as error:
            self.problem = self.problem or f"{type(error).__name__}: {error}"
            return None

    def _add_up(self, weights: Mapping[str, Tensor]) -> None:
        """Checksums of what arrives, in the types that parameters have."""
        for name, tensor in weights.items():
            self._arrived[name] = checksum(tensor)
            for dtype in {tensor.dtype, self.model_config.dtype, torch.float32}:
                self._sums[name, dtype] = checksum(tensor.to(dtype))

    def shutdown(self) -> None:
        """Leaves the channel."""
        if self._channel is not None:
            channel, self._channel = self._channel, None
            channel.close()
            self.broken = self.broken or "the channel is closed"


class WeightReloader:
    """A vllm worker extension: mixed into the worker class, called through `collective_rpc`."""

    vllm_config: Any
    model_runner: Any
    weight_transfer_engine: Any
    ur2_reloader: Reloader | None = None

    def ur2_reload(self, path: str) -> str:
        """Loads the weights of directory `path` into the running model.

        Returns:
            What did not fit, empty where all did. Exceptions lose their type on the way to the
            caller, so the failure travels as text.
        """
        if self.ur2_reloader is None:
            self.ur2_reloader = Reloader(self.model_runner.get_model(), self.vllm_config)
        try:
            weights = dict(read_weights(path))
            self.ur2_reloader.begin(weights)
            self.ur2_reloader.load(list(weights.items()))
            missing = self.ur2_reloader.finish()
        except MISFITS as error:
            return f"{type(error).__name__}: {error}"
        return f"missing {', '.join(missing)}" if missing else ""

    def ur2_differing(self, path: str) -> list[str]:
        """Tensors that `path` or, after `ur2_reload`, the model does not hold as published."""
        weights = dict(read_weights(path))
        if names := damaged(weights, read_checksums(path)):
            return names
        assert self.ur2_reloader is not None
        return self.ur2_reloader.differing(lambda name, dtype: checksum(weights[name].to(dtype)))

    def ur2_outcome(self) -> tuple[str, str, list[str]]:
        """Faults of the last update, empty where none: channel, weights, names of tensors."""
        engine: ChannelEngine = self.weight_transfer_engine
        return engine.broken, engine.problem, engine.differing()


# vllm imports the extension in each of its processes before it makes the engine
WeightTransferEngineFactory.register_engine(BACKEND, ChannelEngine)

"""The policy's weights on their way out: to engines, and into a Hugging Face folder."""

import contextlib
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import GenerationConfig

from ur2.policy.options import PolicyOptions
from ur2.transfer.channel import CHANNEL_ERRORS, Channel
from ur2.transfer.channels import CHANNELS
from ur2.transfer.checks import is_verified, with_checksums
from ur2.transfer.files import write_published
from ur2.transfer.records import ChannelError, Handover, Rendezvous, WeightFolder, WeightsManifest
from ur2.transfer.staging import reveal, stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ur2.policy.engine import TrainEngine

PART_BYTES = 1 << 29
COPIED_FILES = (
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "chat_template*",
)


class WeightSender:
    """One rank's part in giving weights to engines; `give` is collective."""

    def __init__(self, engine: "TrainEngine", options: PolicyOptions, rank: int) -> None:
        self._engine = engine
        self._options = options
        self._rank = rank
        self._num_written = 0
        self._channel: Channel | None = None
        self._is_everywhere = False

    def give(self, handover: Handover, version: int) -> None:
        """Writes a folder of weights, opens a channel to engines, or sends weights over it.

        Raises:
            ChannelError: the engines were not there, or the weights did not leave.
        """
        match handover:
            case WeightFolder(path):
                self._write(Path(path), version)
            case Rendezvous():
                self._join(handover)
            case WeightsManifest():
                self._send(handover)

    def _write(self, folder: Path, version: int) -> None:
        """Writes safetensors files by Hugging Face name; the folder appears complete."""
        with self._parts("cpu") as parts:
            if self._rank == 0:
                checksums = is_verified(self._options.verify_weights, self._num_written)
                write_published(parts, folder, version, checksums=checksums)
                self._num_written += 1
        dist.barrier()

    def _join(self, rendezvous: Rendezvous) -> None:
        """Opens a channel to engines, in the place of an earlier one."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self._is_everywhere = rendezvous.channel == "ipc"  # each rank serves the engine on its GPU
        if self._rank and not self._is_everywhere:
            return
        try:
            self._channel = CHANNELS[rendezvous.channel](
                rendezvous, self._rank, self._engine.device
            )
        except CHANNEL_ERRORS as error:
            raise ChannelError(f"the policy found no engines at the rendezvous: {error}") from error

    def _send(self, manifest: WeightsManifest) -> None:
        """Sends the weights over the channel."""
        device = self._engine.device
        with self._parts(device) as parts:
            if self._channel is None:
                return
            weights: Iterator[tuple[str, Tensor]] = (item for p in parts for item in p.items())
            if manifest.verified:
                weights = with_checksums(weights, device)
            try:
                self._channel.send(manifest, weights)
            except CHANNEL_ERRORS as error:
                self._channel.close()
                self._channel = None
                raise ChannelError(f"the policy's weights did not leave: {error}") from error

    @contextlib.contextmanager
    def _parts(self, device: torch.device | str) -> Iterator[Iterator[dict[str, Tensor]]]:
        """The weights; what is left of them at the end is gathered, since other ranks do so."""
        parts = self._engine.weights(PART_BYTES, device, everywhere=self._is_everywhere)
        try:
            yield parts
        finally:
            for _ in parts:
                pass


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port


def write_exported(
    weights: Mapping[str, Tensor], lm: "PreTrainedModel", source: Path, folder: Path
) -> None:
    """Writes a folder that loads like `source`, with other weights."""
    staged = stage(folder)
    lm.generation_config = GenerationConfig()  # the source's own is copied, be it odd
    lm.save_pretrained(staged, state_dict=dict(weights))
    (staged / "generation_config.json").unlink()
    for pattern in COPIED_FILES:
        for file in source.glob(pattern):
            shutil.copy(file, staged / file.name)
    reveal(staged, folder)


def model_folder(path: str, revision: str | None) -> Path:
    """Where the files of a model lie on this machine."""
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(path, revision=revision))

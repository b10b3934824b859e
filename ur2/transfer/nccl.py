"""The channel between GPUs: a broadcast in vllm's own packing. It has not been run yet."""

from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from ur2.transfer.channel import Load, Weights
from ur2.transfer.records import Rendezvous, WeightsManifest

NUM_BUFFERS = 2


class NcclChannel:
    """Written against vllm 0.32: its communicator, its packing and its buffers.

    NCCL knows no secret: who reaches the port of the rendezvous is trusted.
    """

    def __init__(self, rendezvous: Rendezvous, rank: int, device: torch.device) -> None:
        from vllm.distributed.weight_transfer.nccl_common import stateless_init_process_group

        self._device = device
        self._part_bytes = rendezvous.part_bytes
        self._group: Any = stateless_init_process_group(
            master_address=rendezvous.address,
            master_port=rendezvous.port,
            rank=rank,
            world_size=rendezvous.num_ranks,
            device=device,
        )
        if self._group.disabled:
            raise RuntimeError("NCCL cannot be loaded")

    def send(self, manifest: WeightsManifest, weights: Weights) -> None:
        """Broadcasts the weights; an engine that dies meanwhile makes it wait for good."""
        from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_producer

        torch.cuda.synchronize(self._device)  # it reads on streams of its own
        packed_nccl_broadcast_producer(
            iterator=iter(weights),
            group=self._group,
            src=0,
            post_iter_func=itemgetter(1),
            buffer_size_bytes=manifest.buffer_bytes(self._part_bytes),
            num_buffers=NUM_BUFFERS,
        )

    def receive(self, manifest: WeightsManifest, load: Load) -> None:
        """Takes part in the broadcast, and loads each part as it comes."""
        from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_consumer

        def load_now(part: list[tuple[str, Tensor]]) -> None:
            load(part)
            # layers that span two parts are loaded on the stream of the second, and the memory of
            # the first returns to the stream of the first
            torch.cuda.current_stream().synchronize()

        packed_nccl_broadcast_consumer(
            iterator=((name, (shape, dtype)) for name, shape, dtype in manifest.tensors()),
            group=self._group,
            src=0,
            post_unpack_func=load_now,
            buffer_size_bytes=manifest.buffer_bytes(self._part_bytes),
            num_buffers=NUM_BUFFERS,
            device=self._device,
        )

    def close(self) -> None:
        """Leaves the group."""
        self._group.destroy()

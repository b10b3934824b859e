"""Channels from the policy's memory to the engines': NCCL and CUDA IPC between GPUs, TCP on CPUs.

Both ends open a channel at one meeting. The policy's ranks send, the processes of the engines
receive at the same time, part by part, so that neither holds more than a few parts at once.

Of vllm come NCCL's communicator, packing and buffers, and the handles of CUDA IPC. These two need
GPUs: they are written against vllm 0.32 and have not been run yet.
"""

import math
import pickle
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import repeat
from operator import itemgetter
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch._C._distributed_c10d import TCPStore

from ur2.transfer.records import ChannelName, Manifest, Meeting

Weights = Iterable[tuple[str, Tensor]]
Load = Callable[[list[tuple[str, Tensor]]], object]
T = TypeVar("T")

CHANNEL_ERRORS = (RuntimeError, OSError)
"""Another end is gone, or does not answer in time."""

PART_BYTES = 1 << 28
NUM_BUFFERS = 2
JOIN_TIMEOUT_S = 60.0
"""All ends are up when they are told to meet."""


class Channel(Protocol):
    """One end of it."""

    def send(self, manifest: Manifest, weights: Weights) -> None:
        """Sends what the manifest says, in its order; returns when it has left.

        Raises:
            RuntimeError, OSError: see `CHANNEL_ERRORS`.
        """
        ...

    def receive(self, manifest: Manifest, load: Load) -> None:
        """Hands each part to `load`, which may keep it.

        Raises:
            RuntimeError, OSError: as `send`; and what `load` raises.
        """
        ...

    def close(self) -> None:
        """Leaves; what other ends do on it fails from then on."""
        ...


class TcpChannel:
    """A connection from policy rank 0 to each process of the engines, between CPUs.

    An end that is gone is known at once, which gloo's broadcast leaves to a timeout.
    """

    def __init__(self, meeting: Meeting, rank: int, device: torch.device) -> None:
        self._peers: list[socket.socket] = []
        try:
            if rank == 0:
                self._accept(meeting)
            else:
                self._peers.append(_connect(meeting))
        except OSError:
            self.close()
            raise
        for peer in self._peers:
            peer.settimeout(meeting.timeout_s)

    def _accept(self, meeting: Meeting) -> None:
        with socket.create_server((meeting.address, meeting.port)) as server:
            server.settimeout(JOIN_TIMEOUT_S)
            while len(self._peers) < meeting.num_ranks - 1:
                self._peers.append(server.accept()[0])

    def send(self, manifest: Manifest, weights: Weights) -> None:
        """See `Channel.send`."""
        sized = ((tensor, tensor.nbytes) for _, tensor in weights)
        with ThreadPoolExecutor(len(self._peers)) as pool:
            for part in parts(sized, PART_BYTES):
                packed = torch.cat([tensor.reshape(-1).view(torch.uint8) for tensor in part])
                for _ in pool.map(socket.socket.sendall, self._peers, repeat(packed.numpy())):
                    pass

    def receive(self, manifest: Manifest, load: Load) -> None:
        """See `Channel.receive`."""
        (peer,) = self._peers
        sized = (
            ((name, shape, dtype), math.prod(shape) * dtype.itemsize)
            for name, shape, dtype in manifest.tensors()
        )
        for part in parts(sized, PART_BYTES):
            sizes = [math.prod(shape) * dtype.itemsize for _, shape, dtype in part]
            packed = torch.empty(sum(sizes), dtype=torch.uint8)
            _read(peer, packed.numpy().data)
            pieces = zip(part, torch.split(packed, sizes), strict=True)
            load([(name, p.view(dtype).view(shape)) for (name, shape, dtype), p in pieces])

    def close(self) -> None:
        """See `Channel.close`."""
        for peer in self._peers:
            peer.close()


class NcclChannel:
    """A broadcast between GPUs, in vllm's own packing."""

    def __init__(self, meeting: Meeting, rank: int, device: torch.device) -> None:
        from vllm.distributed.weight_transfer.nccl_common import stateless_init_process_group

        self._device = device
        self._group: Any = stateless_init_process_group(
            master_address=meeting.address,
            master_port=meeting.port,
            rank=rank,
            world_size=meeting.num_ranks,
            device=device,
        )
        if self._group.disabled:
            raise RuntimeError("NCCL cannot be loaded")

    def send(self, manifest: Manifest, weights: Weights) -> None:
        """See `Channel.send`; an engine that dies meanwhile makes it wait for good."""
        from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_producer

        torch.cuda.synchronize(self._device)  # it reads on streams of its own
        packed_nccl_broadcast_producer(
            iterator=iter(weights),
            group=self._group,
            src=0,
            post_iter_func=itemgetter(1),
            buffer_size_bytes=_buffer_bytes(manifest),
            num_buffers=NUM_BUFFERS,
        )

    def receive(self, manifest: Manifest, load: Load) -> None:
        """See `Channel.receive`."""
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
            buffer_size_bytes=_buffer_bytes(manifest),
            num_buffers=NUM_BUFFERS,
            device=self._device,
        )

    def close(self) -> None:
        """See `Channel.close`."""
        self._group.destroy()


class CudaMemory:
    """Parts in a buffer of a GPU that another process maps, by vllm's handles."""

    def __init__(self, device: torch.device) -> None:
        from vllm.distributed.weight_transfer.packed_tensor import PackedBufferImporter

        self._device = device
        self.place = str(torch.cuda.get_device_properties(device).uuid)
        self._importer = PackedBufferImporter()

    def lay_out(self, weights: Weights, buffer_bytes: int) -> Iterator[Any]:
        """Puts one part after the other into the same buffer; yields what tells where it lies."""
        from vllm.distributed.weight_transfer.packed_tensor import packed_ipc_producer

        yield from packed_ipc_producer(
            iterator=iter(weights),
            gpu_uuid=self.place,
            post_iter_func=itemgetter(1),
            buffer_size_bytes=buffer_bytes,
        )

    def take(self, part: Any) -> list[tuple[str, Tensor]]:
        """Copies of a part's tensors."""
        from vllm.distributed.weight_transfer.packed_tensor import packed_ipc_consumer

        taken: list[tuple[str, Tensor]] = packed_ipc_consumer(
            ipc_handle=part.ipc_handle,
            names=part.names,
            shapes=part.shapes,
            dtype_names=part.dtype_names,
            tensor_sizes=part.tensor_sizes,
            device_index=self._device.index,
            importer=self._importer,
        )
        torch.cuda.synchronize(self._device)  # the buffer is filled anew after this
        return taken

    def release(self) -> None:
        """Lets go of what is mapped, so that the sender gets its buffer back."""
        self._importer.close()
        torch.cuda.ipc_collect()  # type: ignore[no-untyped-call]


class IpcChannel:
    """A buffer on each GPU that a policy rank fills and the engine's process there reads.

    The two talk through the meeting's store: the rank tells where a part lies, and fills the buffer
    anew when the engine has copied it.
    """

    def __init__(
        self, meeting: Meeting, rank: int, device: torch.device, memory: Any = None
    ) -> None:
        self._store = _store(meeting, rank)
        self._store.set_timeout(timedelta(seconds=meeting.timeout_s))
        self._memory = memory or CudaMemory(device)
        self._num_passes = 0

    def send(self, manifest: Manifest, weights: Weights) -> None:
        """See `Channel.send`."""
        self._num_passes += 1
        laid_out = self._memory.lay_out(weights, _buffer_bytes(manifest))
        for number, part in enumerate(laid_out):
            key = self._key(number)
            self._store.set(key, pickle.dumps(part).hex())
            answer = self._store.get(f"{key}/answer").decode()
            self._store.delete_key(key)
            self._store.delete_key(f"{key}/answer")
            if answer:
                raise RuntimeError(f"the engine says {answer}")
        del laid_out
        self._memory.release()

    def receive(self, manifest: Manifest, load: Load) -> None:
        """See `Channel.receive`."""
        self._num_passes += 1
        num_left, number = sum(1 for _ in manifest.tensors()), 0
        while num_left:
            key, answer = self._key(number), ""
            part = pickle.loads(bytes.fromhex(self._store.get(key).decode()))
            try:
                tensors = self._memory.take(part)
                load(tensors)
            except BaseException as error:
                answer = repr(error)
                raise
            finally:
                self._store.set(f"{key}/answer", answer)
            num_left, number = num_left - len(tensors), number + 1
        self._memory.release()

    def _key(self, number: int) -> str:
        return f"{self._num_passes}/{self._memory.place}/{number}"

    def close(self) -> None:
        """See `Channel.close`."""
        self._memory.release()


def parts(sized: Iterable[tuple[T, int]], limit_bytes: int) -> Iterator[list[T]]:
    """Runs of items, each ended by the item that fills it; both ends cut alike."""
    part: list[T] = []
    num_bytes = 0
    for item, size in sized:
        part.append(item)
        num_bytes += size
        if num_bytes >= limit_bytes:
            yield part
            part, num_bytes = [], 0
    if part:
        yield part


def _buffer_bytes(manifest: Manifest) -> int:
    """Of vllm's buffers, into which every tensor should fit."""
    return max(PART_BYTES, manifest.largest_bytes())


def _connect(meeting: Meeting) -> socket.socket:
    """The policy may begin to listen a moment later."""
    until_s = time.monotonic() + JOIN_TIMEOUT_S
    while True:
        try:
            return socket.create_connection((meeting.address, meeting.port), timeout=JOIN_TIMEOUT_S)
        except ConnectionRefusedError:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.05)


def _read(peer: socket.socket, buffer: memoryview) -> None:
    while buffer:
        num_bytes = peer.recv_into(buffer)
        if not num_bytes:
            raise ConnectionError("the policy has left")
        buffer = buffer[num_bytes:]


def _store(meeting: Meeting, rank: int) -> TCPStore:
    return TCPStore(
        meeting.address,
        meeting.port,
        is_master=rank == 0,
        timeout=timedelta(seconds=JOIN_TIMEOUT_S),
        wait_for_workers=False,
    )


CHANNELS: Mapping[ChannelName, type[TcpChannel] | type[NcclChannel] | type[IpcChannel]] = {
    "nccl": NcclChannel,
    "tcp": TcpChannel,
    "ipc": IpcChannel,
}

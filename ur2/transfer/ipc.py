"""The channel on one GPU: memory that two processes map. It has not been run on a GPU yet."""

import contextlib
import hmac
import pickle
from collections.abc import Iterator
from datetime import timedelta
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch._C._distributed_c10d import TCPStore

from ur2.transfer.channel import JOIN_TIMEOUT_S, Load, Weights
from ur2.transfer.proof import NUM_BYTES, UNKNOWN, sign
from ur2.transfer.records import Rendezvous, WeightsManifest


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

    The two talk through the store of the rendezvous: the rank tells where a part lies, and fills
    the buffer anew when the engine has copied it.
    """

    def __init__(
        self, rendezvous: Rendezvous, rank: int, device: torch.device, memory: Any = None
    ) -> None:
        self._store = _store(rendezvous, rank)
        self._store.set_timeout(timedelta(seconds=rendezvous.timeout_s))
        self._secret = rendezvous.secret
        self._memory = memory or CudaMemory(device)
        self._part_bytes = rendezvous.part_bytes
        self._num_passes = 0

    def send(self, manifest: WeightsManifest, weights: Weights) -> None:
        """Fills buffers on this rank's GPU, each anew when the engine there has copied it."""
        self._num_passes += 1
        laid_out = self._memory.lay_out(weights, manifest.buffer_bytes(self._part_bytes))
        for number, part in enumerate(laid_out):
            key = self._key(number)
            self._say(key, pickle.dumps(part))
            if answer := self._hear(f"{key}/answer").decode():
                raise RuntimeError(f"the engine says {answer}")
        del laid_out
        self._hear(self._key("released"))
        self._memory.release()

    def receive(self, manifest: WeightsManifest, load: Load) -> None:
        """Copies what the rank on the same GPU has filled."""
        self._num_passes += 1
        num_left, number = sum(1 for _ in manifest.tensors()), 0
        while num_left:
            key, answer = self._key(number), ""
            try:
                part = pickle.loads(self._hear(key))  # CUDA's handles have no other form
                tensors = self._memory.take(part)
                load(tensors)
            except BaseException as error:  # the policy waits for an answer, whatever happened
                answer = repr(error)
                raise
            finally:
                self._say(f"{key}/answer", answer.encode())
            num_left, number = num_left - len(tensors), number + 1
        self._memory.release()
        self._say(self._key("released"), b"")

    def _key(self, what: int | str) -> str:
        return f"{self._num_passes}/{self._memory.place}/{what}"

    def _say(self, key: str, content: bytes) -> None:
        """Signed, since who reaches the store can write there."""
        self._store.set(key, (sign(self._secret, key, content) + content).hex())

    def _hear(self, key: str) -> bytes:
        """Waits for what the other end says, once.

        Raises:
            PermissionError: it is not the other end that says it.
        """
        said = self._store.get(key)
        self._store.delete_key(key)
        with contextlib.suppress(ValueError):
            signed = bytes.fromhex(said.decode())
            content = signed[NUM_BYTES:]
            if hmac.compare_digest(signed[:NUM_BYTES], sign(self._secret, key, content)):
                return content
        raise PermissionError(UNKNOWN)

    def close(self) -> None:
        """Lets go of buffers."""
        self._memory.release()


def _store(rendezvous: Rendezvous, rank: int) -> TCPStore:
    return TCPStore(
        rendezvous.address,
        rendezvous.port,
        is_master=rank == 0,
        timeout=timedelta(seconds=JOIN_TIMEOUT_S),
        wait_for_workers=False,
    )

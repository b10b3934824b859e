"""What the channels between GPUs call of vllm is there, and does on a CPU what they want of it."""

import contextlib
import dataclasses
import inspect
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

pytest.importorskip("vllm")

from vllm.distributed.weight_transfer import base, nccl_common, packed_tensor
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.worker.gpu_worker import Worker

from ur2.checksums import checksum
from ur2.rollout.engines.vllm_weights import BACKEND, ChannelEngine, WeightReloader
from ur2.transfer.checks import CHECKSUMS, read_sums, with_checksums
from ur2.transfer.nccl import NcclChannel
from ur2.transfer.records import Rendezvous, WeightsManifest

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
RENDEZVOUS = Rendezvous(
    channel="nccl", address="host", port=1, num_ranks=3, first_rank=0, timeout_s=5.0,
    secret="secret",
)  # fmt: skip


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (
            nccl_common.stateless_init_process_group,
            ["master_address", "master_port", "rank", "world_size", "device"],
        ),
        (
            packed_tensor.packed_nccl_broadcast_producer,
            ["iterator", "group", "src", "post_iter_func", "buffer_size_bytes", "num_buffers"],
        ),
        (
            packed_tensor.packed_nccl_broadcast_consumer,
            [
                "iterator",
                "group",
                "src",
                "post_unpack_func",
                "buffer_size_bytes",
                "num_buffers",
                "device",
            ],
        ),
        (
            packed_tensor.packed_ipc_producer,
            ["iterator", "gpu_uuid", "post_iter_func", "buffer_size_bytes"],
        ),
        (
            packed_tensor.packed_ipc_consumer,
            [
                "ipc_handle",
                "names",
                "shapes",
                "dtype_names",
                "tensor_sizes",
                "device_index",
                "importer",
            ],
        ),
        (Worker.init_weight_transfer_engine, ["self", "init_info"]),
        (Worker.start_weight_update, ["self"]),
        (Worker.update_weights, ["self", "update_info"]),
        (Worker.finish_weight_update, ["self"]),
        (AsyncLLM.init_weight_transfer_engine, ["self", "request"]),
        (AsyncLLM.update_weights, ["self", "request"]),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_vllm_takes_the_arguments_that_it_gets(function: Any, names: list[str]) -> None:
    assert list(inspect.signature(function).parameters) == names


def test_vllm_has_what_the_channels_read() -> None:
    chunk = {field.name for field in dataclasses.fields(packed_tensor.PackedIpcChunk)}
    assert chunk == {"names", "shapes", "dtype_names", "tensor_sizes", "ipc_handle"}
    assert {"rebuild", "close"} <= set(dir(packed_tensor.PackedBufferImporter))
    assert set(inspect.signature(base.WeightTransferInitRequest).parameters) == {"init_info"}
    assert set(inspect.signature(base.WeightTransferUpdateRequest).parameters) == {"update_info"}


def test_vllm_finds_the_engine_that_takes_weights_and_can_make_it() -> None:
    assert WeightTransferEngineFactory._registry[BACKEND]() is ChannelEngine
    assert not ChannelEngine.__abstractmethods__
    names = {name for name in vars(WeightReloader) if not name.startswith("__")}
    assert not names & set(dir(Worker))  # vllm refuses an extension that hides what a worker has


class Bus:
    """Broadcasts between threads, in the place of NCCL's communicator."""

    def __init__(self, num_ranks: int) -> None:
        self.boxes: list[queue.Queue[torch.Tensor]] = [queue.Queue() for _ in range(num_ranks)]


class FakeGroup:
    disabled = False

    def __init__(self, bus: Bus, rank: int) -> None:
        self.bus, self.rank = bus, rank

    def broadcast(self, tensor: torch.Tensor, src: int, stream: Any = None) -> None:
        if self.rank == src:
            for box in self.bus.boxes[1:]:
                box.put(tensor.clone())
        else:
            tensor.copy_(self.bus.boxes[self.rank].get(timeout=5))

    def destroy(self) -> None: ...


class FakeStream:
    def synchronize(self) -> None: ...


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """vllm's packing and buffers work on host memory when their streams do nothing."""
    monkeypatch.setattr(packed_tensor, "_get_streams", lambda device, num: [FakeStream()] * num)
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    bus, signature = Bus(3), inspect.signature(nccl_common.stateless_init_process_group)

    def join(*args: Any, **kwargs: Any) -> FakeGroup:
        given = signature.bind(*args, **kwargs).arguments
        assert (given["master_address"], given["master_port"]) == ("host", 1)
        assert given["world_size"] == 3
        return FakeGroup(bus, given["rank"])

    monkeypatch.setattr(nccl_common, "stateless_init_process_group", join)


@pytest.mark.parametrize("part_bytes", [100, 500, 1 << 20])
@pytest.mark.usefixtures("no_gpu")
def test_both_ends_cut_the_stream_alike(part_bytes: int) -> None:
    rendezvous = dataclasses.replace(RENDEZVOUS, part_bytes=part_bytes)
    weights = [(f"w{i}", torch.randn(3 + i, 5).to(torch.bfloat16)) for i in range(15)]
    manifest = WeightsManifest(
        names=tuple(name for name, _ in weights),
        dtypes=("bfloat16",) * 15,
        shapes=tuple(tuple(tensor.shape) for _, tensor in weights),
        verified=True,
    )
    sender, *receivers = [NcclChannel(rendezvous, rank, CPU) for rank in range(3)]
    lock = threading.Lock()

    def receive(channel: NcclChannel) -> list[tuple[str, torch.Tensor]]:
        taken: list[tuple[str, torch.Tensor]] = []

        def load(part: list[tuple[str, torch.Tensor]]) -> None:
            with lock:
                taken.extend(part)

        channel.receive(manifest, load)
        return taken

    with ThreadPoolExecutor(3) as pool:
        sending = pool.submit(sender.send, manifest, with_checksums(weights, CPU))
        got = list(pool.map(receive, receivers))
        sending.result()
    for taken in got:
        *arrived, (name, sums) = taken
        assert name == CHECKSUMS
        assert [n for n, _ in arrived] == list(manifest.names)
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(arrived, weights, strict=True))
        assert read_sums(manifest.names, sums) == {n: checksum(t) for n, t in weights}

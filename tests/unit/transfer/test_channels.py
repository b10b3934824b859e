"""What one end sends is what the others receive, in bounded parts, whatever becomes of an end."""

import dataclasses
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ur2.checksums import checksum
from ur2.transfer import tcp
from ur2.transfer.channel import CHANNEL_ERRORS, parts
from ur2.transfer.channels import CHANNELS
from ur2.transfer.checks import CHECKSUMS, differing, read_sums, with_checksums
from ur2.transfer.ipc import IpcChannel
from ur2.transfer.proof import call_off, make_secret
from ur2.transfer.records import Rendezvous, WeightsManifest
from ur2.transfer.tcp import TcpChannel

CPU = torch.device("cpu")
TIMEOUT_S = 30.0
SMALL = 400
Pairs = list[tuple[str, Tensor]]


def make_weights(count: int = 12) -> Pairs:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            f"layer.{i}",
            torch.randn(3 + i, 7, generator=generator).to([torch.float32, torch.bfloat16][i >= 8]),
        )
        for i in range(count)
    ]


def manifest_of(weights: Pairs, *, verified: bool = False) -> WeightsManifest:
    return WeightsManifest(
        names=tuple(name for name, _ in weights),
        dtypes=tuple(str(t.dtype).removeprefix("torch.") for _, t in weights),
        shapes=tuple(tuple(t.shape) for _, t in weights),
        verified=verified,
    )


def rendezvous(
    channel: Any, num_ranks: int, timeout_s: float = TIMEOUT_S, part_bytes: int = SMALL
) -> Rendezvous:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return Rendezvous(
        channel=channel, address="127.0.0.1", port=port, num_ranks=num_ranks, first_rank=0,
        timeout_s=timeout_s, secret=make_secret(), part_bytes=part_bytes,
    )  # fmt: skip


def at_once(*ends: Callable[[], Any]) -> list[Future[Any]]:
    """Runs each end in a thread of its own, to its end."""
    with ThreadPoolExecutor(len(ends)) as pool:
        return [pool.submit(end) for end in ends]


def sending(channel: Any, weights: Pairs, *, verified: bool = False) -> Callable[[], None]:
    def send() -> None:
        stream = with_checksums(weights, CPU) if verified else iter(weights)
        channel.send(manifest_of(weights, verified=verified), stream)

    return send


def receiving(channel: Any, manifest: WeightsManifest) -> Callable[[], list[Pairs]]:
    def receive() -> list[Pairs]:
        taken: list[Pairs] = []
        channel.receive(manifest, taken.append)
        return taken

    return receive


def same(got: Sequence[Pairs], sent: Pairs) -> bool:
    flat = [item for part in got for item in part]
    return [n for n, _ in flat] == [n for n, _ in sent] and all(
        torch.equal(a, b) and a.dtype == b.dtype for (_, a), (_, b) in zip(flat, sent, strict=True)
    )


def test_parts_hold_all_items_in_order_and_little_more_than_the_limit() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        sizes = rng.integers(0, 50, rng.integers(0, 30)).tolist()
        limit = int(rng.integers(1, 100))
        sized = list(parts(((size, size) for size in sizes), limit))
        assert [size for part in sized for size in part] == sizes
        assert all(sum(part[:-1]) < limit <= sum(part) for part in sized[:-1])


@pytest.fixture
def opened() -> Iterator[Callable[[int], list[TcpChannel]]]:
    made: list[TcpChannel] = []

    def open_all(num_ranks: int, **options: Any) -> list[TcpChannel]:
        where = rendezvous("tcp", num_ranks, **options)
        ends = [
            (lambda rank=rank: TcpChannel(where, rank, CPU))  # type: ignore[misc]
            for rank in range(num_ranks)
        ]
        made.extend(end.result() for end in at_once(*ends))
        return made

    yield open_all
    for channel in made:
        channel.close()


def test_all_receivers_get_everything_in_small_parts_again_and_again(opened: Any) -> None:
    sender, *receivers = opened(3)
    weights = make_weights()
    for _ in range(2):
        manifest = manifest_of(weights)
        _, *got = at_once(
            sending(sender, weights), *(receiving(receiver, manifest) for receiver in receivers)
        )
        for each in got:
            assert same(each.result(), weights)
            largest = max(t.nbytes for _, t in weights)
            assert len(each.result()) > 2
            assert max(sum(t.nbytes for _, t in p) for p in each.result()) < SMALL + largest
        weights = [(name, tensor + 1) for name, tensor in weights]


def test_checksums_follow_the_weights_and_tell_damage(opened: Any) -> None:
    sender, receiver = opened(2)
    weights = make_weights(9)  # an odd number of bytes before the checksums would not matter
    manifest = manifest_of(weights, verified=True)
    _, got = at_once(sending(sender, weights, verified=True), receiving(receiver, manifest))
    *arrived, (name, sums) = [item for part in got.result() for item in part]
    assert name == CHECKSUMS
    published = read_sums(manifest.names, sums)
    assert published == {name: checksum(tensor) for name, tensor in weights}
    arrived[4][1][0, 0] += 1
    assert differing({n: checksum(t) for n, t in arrived}, published) == ["layer.4"]


def test_tensors_of_any_type_and_size_come_as_they_were_sent(opened: Any) -> None:
    sender, receiver = opened(2, part_bytes=1 << 20)
    dtypes = (torch.bfloat16, torch.float32, torch.bool, torch.float64, torch.uint8, torch.int64)
    weights = [
        (f"{dtype}.{size}", torch.arange(size).to(dtype)) for size in (3, 1, 0) for dtype in dtypes
    ]
    weights += [("scalar", torch.tensor(2.5)), ("turned", torch.arange(6.0).reshape(2, 3).T)]
    _, got = at_once(sending(sender, weights), receiving(receiver, manifest_of(weights)))
    assert same(got.result(), weights)


def test_an_engine_that_does_not_know_the_secret_is_turned_away_and_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tcp, "JOIN_TIMEOUT_S", 1.0)
    where = rendezvous("tcp", 2)
    wrong = dataclasses.replace(where, secret=make_secret())
    policy, engine = at_once(lambda: TcpChannel(where, 0, CPU), lambda: TcpChannel(wrong, 1, CPU))
    assert isinstance(engine.exception(), CHANNEL_ERRORS)
    assert "does not know the secret" in str(engine.exception())
    assert isinstance(policy.exception(), CHANNEL_ERRORS)
    assert "1 of the engines' 1 processes did not come" in str(policy.exception())


@pytest.mark.parametrize("says", [b"", b"GET / HTTP/1.1\r\n\r\n", bytes(200)])
def test_strangers_take_no_engines_place(
    says: bytes, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp, "PROVE_TIMEOUT_S", 0.3)
    connect, calls = tcp._connect, []

    def connect_after_a_stranger(where: Rendezvous) -> socket.socket:
        calls.append(connect(where))
        calls[0].sendall(says)
        return connect(where)

    monkeypatch.setattr(tcp, "_connect", connect_after_a_stranger)
    sender, receiver = opened(2)
    weights = make_weights()
    _, got = at_once(sending(sender, weights), receiving(receiver, manifest_of(weights)))
    assert same(got.result(), weights)
    calls[0].close()


def test_a_policy_waits_no_longer_for_an_engine_of_which_it_is_told_that_it_does_not_come() -> None:
    where = rendezvous("tcp", 3)
    assert not call_off(where)  # nobody listens yet
    stranger = dataclasses.replace(where, secret=make_secret())

    def tell() -> None:
        while not call_off(where):
            assert not call_off(stranger)

    begun_s = time.monotonic()
    policy, _, engine = at_once(
        lambda: TcpChannel(where, 0, CPU), tell, lambda: TcpChannel(where, 1, CPU)
    )
    assert time.monotonic() - begun_s < TIMEOUT_S / 2
    assert isinstance(policy.exception(), CHANNEL_ERRORS)
    assert "1 of the engines' 2 processes did not come" in str(policy.exception())
    engine.result().close()  # it came all the same


def test_a_secret_is_never_shown() -> None:
    where = rendezvous("tcp", 2)
    assert where.secret not in repr(where)
    assert where.secret not in str(where)
    assert where.secret != rendezvous("tcp", 2).secret


@pytest.mark.parametrize("leaver", [0, 2])
def test_an_end_that_leaves_fails_the_others_at_once(opened: Any, leaver: int) -> None:
    ends = opened(3, part_bytes=1 << 20)
    weights = [(f"layer.{i}", torch.zeros(100_000)) for i in range(50)]
    left = threading.Event()

    def leave() -> None:
        ends[leaver].close()
        left.set()

    def stay(rank: int, end: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            assert left.wait(10)
            try:
                return end()
            except CHANNEL_ERRORS:
                ends[rank].close()  # as policy and engines do
                raise

        return run

    work = [sending(ends[0], weights), *(receiving(e, manifest_of(weights)) for e in ends[1:])]
    begun_s = time.monotonic()
    outcomes = at_once(*(leave if i == leaver else stay(i, w) for i, w in enumerate(work)))
    assert time.monotonic() - begun_s < TIMEOUT_S / 2
    failed = [isinstance(outcome.exception(5), CHANNEL_ERRORS) for outcome in outcomes]
    assert failed == [i != leaver for i in range(3)]


@dataclass(frozen=True)
class Laid:
    """Where a part lies in a shared buffer."""

    entries: list[tuple[str, int, int, list[int], str]]


class SharedBuffer:
    """Memory that two threads share, in the place of a GPU's: one part overwrites the other."""

    place = "gpu-0"

    def __init__(self, buffer: bytearray) -> None:
        self.buffer = buffer
        self.released = 0

    def lay_out(self, weights: Any, buffer_bytes: int) -> Iterator[Laid]:
        assert len(self.buffer) >= buffer_bytes
        for part in parts(((item, item[1].nbytes) for item in weights), SMALL):
            entries, start = [], 0
            self.buffer[:] = b"\xff" * len(self.buffer)
            for name, tensor in part:
                raw = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
                self.buffer[start : start + len(raw)] = raw
                dtype = str(tensor.dtype).removeprefix("torch.")
                entries.append((name, start, len(raw), list(tensor.shape), dtype))
                start += len(raw)
            yield Laid(entries)

    def take(self, part: Laid) -> Pairs:
        return [
            (
                name,
                torch.tensor(list(self.buffer[at : at + size]), dtype=torch.uint8)
                .view(getattr(torch, dtype))
                .view(shape),
            )
            for name, at, size, shape, dtype in part.entries
        ]

    def release(self) -> None:
        self.released += 1


def two_on_one_gpu(timeout_s: float = TIMEOUT_S) -> tuple[IpcChannel, IpcChannel]:
    where, memory = rendezvous("ipc", 2, timeout_s), bytearray(1 << 12)
    sender, receiver = at_once(
        lambda: IpcChannel(where, 0, CPU, SharedBuffer(memory)),
        lambda: IpcChannel(where, 1, CPU, SharedBuffer(memory)),
    )
    return sender.result(), receiver.result()


def test_a_shared_buffer_is_filled_anew_only_when_its_part_is_taken() -> None:
    sender, receiver = two_on_one_gpu()
    for _ in range(2):
        weights = make_weights()
        manifest = manifest_of(weights, verified=True)
        sent, got = at_once(sending(sender, weights, verified=True), receiving(receiver, manifest))
        sent.result()
        *parts_got, (name, sums) = [item for part in got.result() for item in part]
        assert same([parts_got], weights)
        assert name == CHECKSUMS
        assert read_sums(manifest.names, sums) == {n: checksum(t) for n, t in weights}
        assert len(got.result()) > 3
    assert sender._memory.released == receiver._memory.released == 2


def spring() -> None:
    raise AssertionError("unpickled")


class Trap:
    def __reduce__(self) -> Any:
        return spring, ()


TRAP = pickle.dumps(Trap()).hex()


@pytest.mark.parametrize("forged", ["", "00", "no hex", "é", TRAP, "00" * 32 + TRAP])
def test_nothing_is_unpickled_that_the_policy_did_not_sign(forged: str) -> None:
    sender, receiver = two_on_one_gpu()
    sender._store.set(f"1/{SharedBuffer.place}/0", forged)
    with pytest.raises(PermissionError, match="does not know the secret"):
        receiver.receive(manifest_of(make_weights()), lambda part: None)


def test_both_ends_of_a_shared_buffer_tell_another_secret_at_once() -> None:
    sender, receiver = two_on_one_gpu()
    receiver._secret = make_secret()
    weights, begun_s = make_weights(), time.monotonic()
    sent, got = at_once(sending(sender, weights), receiving(receiver, manifest_of(weights)))
    assert time.monotonic() - begun_s < TIMEOUT_S / 2
    for end in (sent, got):
        assert isinstance(end.exception(), PermissionError)
        assert "does not know the secret" in str(end.exception())


def test_an_engine_that_cannot_take_a_part_tells_the_policy_why() -> None:
    sender, receiver = two_on_one_gpu()
    weights = make_weights()

    def load(part: Pairs) -> None:
        raise ValueError("no room")

    sent, got = at_once(
        sending(sender, weights), lambda: receiver.receive(manifest_of(weights), load)
    )
    assert isinstance(got.exception(), ValueError)
    assert "no room" in str(sent.exception())


def test_a_policy_without_an_engine_stops_waiting() -> None:
    sender, _ = two_on_one_gpu(timeout_s=0.3)
    (sent,) = at_once(sending(sender, make_weights()))
    assert isinstance(sent.exception(10), CHANNEL_ERRORS)


def test_every_way_has_its_channel() -> None:
    assert set(CHANNELS) == {"nccl", "tcp", "ipc"}
    assert {field.name for field in dataclasses.fields(Rendezvous)} >= {
        "channel",
        "address",
        "port",
    }

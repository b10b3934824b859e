"""Ranks stay in step while weights leave, whatever becomes of the engines."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from ur2.policy.options import PolicyOptions
from ur2.policy.weight_sender import WeightSender, free_port
from ur2.transfer import tcp
from ur2.transfer.records import ChannelError, Rendezvous, WeightsManifest

CPU = torch.device("cpu")
NUM_PARTS = 6


class ScriptedEngine:
    """Gathers in parts, and counts them: other ranks wait in each."""

    device = CPU

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.num_gathered = 0
        self.everywhere: list[bool] = []

    def weights(
        self, max_bytes: int, device: Any, *, everywhere: bool = False
    ) -> Iterator[dict[str, Tensor]]:
        self.everywhere.append(everywhere)
        for number in range(NUM_PARTS):
            self.num_gathered += 1
            full = self.rank == 0 or everywhere
            yield {f"w{number}": torch.full((50_000,), float(number))} if full else {}


MANIFEST = WeightsManifest(
    names=tuple(f"w{i}" for i in range(NUM_PARTS)),
    dtypes=("float32",) * NUM_PARTS,
    shapes=((50_000,),) * NUM_PARTS,
)


def rendezvous(first_rank: int, port: int, channel: Any = "tcp") -> Rendezvous:
    return Rendezvous(
        channel=channel,
        address="127.0.0.1",
        port=port,
        num_ranks=2,
        first_rank=first_rank,
        timeout_s=10.0,
        secret="secret",
        part_bytes=1000,
    )


def joined(rank: int) -> tuple[WeightSender, ScriptedEngine, tcp.TcpChannel | None]:
    """A rank of the policy, and the engine's end of its channel."""
    engine, port = ScriptedEngine(rank), free_port()
    sender = WeightSender(engine, PolicyOptions(), rank)  # type: ignore[arg-type]
    with ThreadPoolExecutor(1) as pool:
        joining = pool.submit(sender.give, rendezvous(0, port), 0)
        far = tcp.TcpChannel(rendezvous(1, port), 1, CPU) if rank == 0 else None
        joining.result()
    return sender, engine, far


def test_rank_0_sends_what_is_gathered_and_the_others_only_gather() -> None:
    sender, _, far = joined(0)
    assert far is not None
    taken: list[tuple[str, Tensor]] = []
    with ThreadPoolExecutor(1) as pool:
        receiving = pool.submit(far.receive, MANIFEST, taken.extend)
        sender.give(MANIFEST, 1)
        receiving.result()
    assert [(name, float(t[-1])) for name, t in taken] == [
        (f"w{i}", float(i)) for i in range(NUM_PARTS)
    ]
    other, engine, _ = joined(1)
    other.give(MANIFEST, 1)
    assert engine.num_gathered == NUM_PARTS


def test_an_engine_that_leaves_is_an_error_after_everything_is_gathered() -> None:
    sender, engine, far = joined(0)
    assert far is not None
    far.close()
    with pytest.raises(ChannelError, match="did not leave"):
        sender.give(MANIFEST, 1)
    assert engine.num_gathered == NUM_PARTS


def test_engines_that_do_not_come_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "JOIN_TIMEOUT_S", 0.1)
    sender = WeightSender(ScriptedEngine(0), PolicyOptions(), 0)  # type: ignore[arg-type]
    with pytest.raises(ChannelError, match="no engines"):
        sender.give(rendezvous(0, free_port()), 0)


def test_every_rank_has_the_weights_where_each_serves_an_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Channel:
        def __init__(self, *_: Any) -> None:
            self.sent: list[str] = []

        def send(self, manifest: WeightsManifest, weights: Iterator[tuple[str, Tensor]]) -> None:
            made.append([name for name, _ in weights])

    made: list[list[str]] = []
    monkeypatch.setattr("ur2.policy.weight_sender.CHANNELS", {"ipc": Channel})
    engine = ScriptedEngine(3)
    sender = WeightSender(engine, PolicyOptions(), 3)  # type: ignore[arg-type]
    sender.give(rendezvous(0, 1, "ipc"), 0)
    sender.give(MANIFEST, 1)
    assert made == [list(MANIFEST.names)]
    assert engine.everywhere == [True]

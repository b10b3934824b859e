"""A publication reaches every worker, over one channel as long as the workers are the same."""

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from ur2.errors import ComponentError
from ur2.policy.weight_sender import free_port
from ur2.transfer.proof import make_secret
from ur2.transfer.publication import Files, Stream
from ur2.transfer.records import ChannelError, Handover, Rendezvous, WeightFolder, WeightsManifest
from ur2.transfer.tcp import TcpChannel

CPU = torch.device("cpu")
MANIFEST = WeightsManifest(names=("a",), dtypes=("float32",), shapes=((2,),))


class Wire:
    """A channel: it opens, and carries weights, when all its ranks are there at once."""

    def __init__(self) -> None:
        self.num_ranks = 0
        self.present: dict[str, int] = {}
        self.dead: set[str] = set()
        self.hung: set[str] = set()
        self.full = asyncio.Event()

    async def meet(self, who: str, num_ranks: int) -> None:
        self.present[who] = num_ranks
        broken = bool(self.dead & self.present.keys())
        if broken or sum(self.present.values()) == self.num_ranks:
            self.full.set()
        await asyncio.wait_for(self.full.wait(), 5)
        broken = bool(self.dead & self.present.keys())
        await asyncio.sleep(0)  # all of them have looked
        self.present.clear()
        self.full.clear()
        if broken:
            raise ComponentError("died") if who in self.dead else ChannelError(f"{who}: broken")


@dataclass
class ScriptedPolicy:
    """Ranks that know what they were asked, and hold weights that are versions."""

    wire: Wire
    sent: list[WeightsManifest] = field(default_factory=list)
    rendezvous_made: list[Rendezvous] = field(default_factory=list)
    error: ComponentError | None = None
    hangs: bool = False

    async def call_first(self, method: str) -> Any:
        return {"rendezvous_place": ("127.0.0.1", 9, "secret"), "manifest": MANIFEST}[method]

    async def call_all(self, method: str, *args: Any) -> None:
        if isinstance(args[0], Rendezvous):
            self.rendezvous_made.append(args[0])
            self.wire.num_ranks = args[0].num_ranks
        else:
            self.sent.append(args[0])
            if self.hangs:
                await asyncio.Event().wait()
        await self.wire.meet("policy", 1)
        if self.error is not None and isinstance(args[0], WeightsManifest):
            raise self.error


@dataclass(eq=False)
class ScriptedReceiver:
    """A worker that notes the rendezvous_made and the versions it got."""

    name: str
    wire: Wire
    num_ranks: int = 1
    limit_s: float = 5.0
    rendezvous_made: list[Rendezvous] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    manifests: list[WeightsManifest] = field(default_factory=list)
    paths: list[tuple[str, int]] = field(default_factory=list)

    async def take(self, handover: Handover, version: int) -> None:
        match handover:
            case WeightFolder(path):
                if self.name in self.wire.dead:
                    raise ComponentError("died")
                self.paths.append((path, version))
            case Rendezvous():
                await self.wire.meet(self.name, self.num_ranks)
                self.rendezvous_made.append(handover)
            case WeightsManifest():
                await self.wire.meet(self.name, self.num_ranks)
                self.manifests.append(handover)
                self.versions.append(version)


class Scene:
    def __init__(self, *num_ranks: int, **options: Any) -> None:
        self.wire = Wire()
        self.policy = ScriptedPolicy(self.wire)
        self.workers = [
            ScriptedReceiver(f"w{i}", self.wire, num_ranks=n) for i, n in enumerate(num_ranks)
        ]
        self.stream = Stream(self.policy, "tcp", options.get("verify", "first"))

    async def deliver(self, version: int | None, *workers: ScriptedReceiver) -> list[Any]:
        if version is not None:
            self.stream.version = version
        return await self.stream.deliver(workers)


async def test_both_ends_of_a_channel_work_at_the_same_time_again_and_again() -> None:
    scene = Scene(1, 2, 1)
    for version in (1, 2, 3):
        assert await scene.deliver(version, *scene.workers) == [None] * 3
    assert all(worker.versions == [1, 2, 3] for worker in scene.workers)
    assert len(scene.policy.rendezvous_made) == 1
    assert [worker.rendezvous_made[0].first_rank for worker in scene.workers] == [1, 2, 4]
    assert {m.num_ranks for w in scene.workers for m in w.rendezvous_made} == {5}
    assert scene.policy.rendezvous_made[0].first_rank == 0


async def test_a_worker_that_was_started_again_gets_a_channel_and_then_all_do() -> None:
    scene = Scene(1, 1)
    first, second = scene.workers
    await scene.deliver(1, first, second)
    late = ScriptedReceiver("late", scene.wire)
    assert await scene.deliver(None, late) == [None]
    assert late.versions == [1]
    assert await scene.deliver(2, first, late) == [None, None]
    assert [rendezvous.num_ranks for rendezvous in scene.policy.rendezvous_made] == [3, 2, 3]
    assert (first.versions, late.versions) == ([1, 2], [1, 2])


@pytest.mark.parametrize(
    ("verify", "verified"), [("first", [1, 1, 0, 1]), ("always", [1] * 4), ("never", [0] * 4)]
)
async def test_the_first_deliveries_over_each_channel_are_verified(
    verify: str, verified: list[int]
) -> None:
    scene = Scene(1, 1, verify=verify)
    first, second = scene.workers
    for version in (1, 2, 3):
        await scene.deliver(version, first)
    await scene.deliver(4, first, second)
    assert [manifest.verified for manifest in first.manifests] == verified


@pytest.mark.parametrize("opened", [True, False])
async def test_a_worker_that_dies_is_told_and_the_others_get_a_new_channel(opened: bool) -> None:
    scene = Scene(1, 1, 1)
    if opened:
        await scene.deliver(1, *scene.workers)
    scene.wire.dead = {"w1"}

    failures = await scene.deliver(2, *scene.workers)
    assert [type(failure) for failure in failures] == [type(None), ComponentError, type(None)]
    assert scene.workers[0].versions[-1:] == scene.workers[2].versions[-1:] == [2]
    assert scene.policy.rendezvous_made[-1].num_ranks == 3


async def test_a_policy_that_fails_is_the_error() -> None:
    scene = Scene(1)
    scene.policy.error = ComponentError("rank 1 died")
    with pytest.raises(ComponentError, match="rank 1 died"):
        await scene.deliver(1, *scene.workers)


async def test_a_policy_that_hangs_is_an_error_in_time() -> None:
    scene = Scene(1)
    await scene.deliver(1, *scene.workers)
    scene.policy.hangs = True
    scene.workers[0].limit_s = 0.05

    async def take(handover: Handover, version: int) -> None:
        raise ComponentError("no answer within 0.05 s")

    scene.workers[0].take = take  # type: ignore[method-assign]
    with pytest.raises(ComponentError, match=r"within 0\.05 s \(rollout.update_timeout_s\)"):
        await scene.deliver(2, *scene.workers)


WEIGHTS = [(f"w{i}", torch.full((1_000_000,), float(i))) for i in range(8)]


class RealPolicy(ScriptedPolicy):
    """A rank at the end of a real channel, which does not hold all of these weights at once."""

    async def call_first(self, method: str) -> Any:
        if method == "manifest":
            return WeightsManifest(
                names=tuple(name for name, _ in WEIGHTS),
                dtypes=("float32",) * len(WEIGHTS),
                shapes=((1_000_000,),) * len(WEIGHTS),
            )
        return "127.0.0.1", free_port(), make_secret()

    async def call_all(self, method: str, *args: Any) -> None:
        try:
            if isinstance(args[0], Rendezvous):
                self.rendezvous_made.append(args[0])
                self.channel = await asyncio.to_thread(TcpChannel, args[0], 0, CPU)
            else:
                await asyncio.to_thread(self.channel.send, args[0], WEIGHTS)
        except OSError as error:
            if isinstance(args[0], WeightsManifest):
                self.channel.close()
            raise ChannelError(str(error)) from error


class RealReceiver(ScriptedReceiver):
    """A worker at the end of a real channel."""

    async def take(self, handover: Handover, version: int) -> None:
        try:
            if isinstance(handover, Rendezvous):
                if self.name in self.wire.dead:
                    raise ComponentError("died")
                self.channel = await asyncio.to_thread(
                    TcpChannel, handover, handover.first_rank, CPU
                )
                return
            if self.name in self.wire.hung:
                await asyncio.sleep(self.limit_s)
                raise ComponentError("no answer in time")
            await asyncio.to_thread(self.channel.receive, handover, lambda part: None)
        except OSError as error:
            raise ChannelError(str(error)) from error
        self.versions.append(version)


def real(*names: str, limit_s: float = 30.0) -> tuple[Stream, RealPolicy, list[RealReceiver]]:
    policy = RealPolicy(Wire())
    workers = [RealReceiver(name, policy.wire, limit_s=limit_s) for name in names]
    return Stream(policy, "tcp", "never"), policy, workers


async def test_nobody_waits_for_a_worker_that_died_before_the_channel_opened() -> None:
    stream, policy, workers = real("w0", "w1", "w2")
    policy.wire.dead = {"w1"}
    begun_s = time.monotonic()
    failures = await stream.deliver(workers)
    assert time.monotonic() - begun_s < 10
    assert [type(failure) for failure in failures] == [type(None), ComponentError, type(None)]
    assert workers[0].versions == workers[2].versions == [0]


async def test_a_worker_that_hangs_is_told_and_the_others_get_the_weights() -> None:
    stream, policy, workers = real("w0", "w1", limit_s=2.0)
    policy.wire.hung = {"w1"}
    failures = await stream.deliver(workers)
    assert [type(failure) for failure in failures] == [type(None), ComponentError]
    assert workers[0].versions == [0]


async def test_a_worker_that_starts_during_an_update_gets_what_comes_out_of_it() -> None:
    scene = Scene(1)
    await scene.deliver(4, *scene.workers)
    late = ScriptedReceiver("late", scene.wire)
    async with scene.stream.moving():
        delivering = asyncio.create_task(scene.deliver(None, late))
        await asyncio.sleep(0.05)
        assert not delivering.done()
        assert not late.rendezvous_made
    assert await delivering == [None]
    assert late.versions == [5]


async def test_files_reach_each_worker_on_its_own_and_are_gone_when_discarded(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "v7"
    folder.mkdir()
    scene = Scene(1, 1)
    scene.wire.dead = {"w0"}
    published = Files(folder, 7)
    dead, fine = await published.deliver(scene.workers)
    assert isinstance(dead, ComponentError)
    assert fine is None
    assert scene.workers[1].paths == [(str(folder), 7)]
    published.discard()
    published.discard()
    assert not folder.exists()

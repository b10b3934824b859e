"""Real ray on two nodes of this machine, whose GPUs are only claimed: who gets which."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import ray
import yaml
from ray.cluster_utils import Cluster as Machines

from ur2.assembly.workers import NoRetriever
from ur2.config.load import CONFIGS
from ur2.environments.options import EnvironmentOptions
from ur2.errors import ComponentError, InputError
from ur2.prompts.options import PromptOptions
from ur2.retrieval.reading.knowledge import RoutedKnowledge
from ur2.rollout.options import EngineOptions, RolloutOptions
from ur2.trainer.cluster.actors import Process, RolloutProcess
from ur2.trainer.cluster.ray_cluster import Cluster, Seat
from ur2.trainer.options import ClusterOptions

pytestmark = pytest.mark.slow


class Worker(Process):
    """Runs where it is put, and says so."""

    def __init__(self, gpus: tuple[str, ...] | None = None) -> None:
        self.given = gpus

    def place(self) -> tuple[str, tuple[str, ...]]:
        return ray.get_runtime_context().get_node_id(), self.whereabouts().gpus

    def close(self) -> None:
        """Nothing to end."""


class Blind(RolloutProcess):
    """An engine on a node that does not see the folder of the weights."""

    def __init__(self) -> None:
        pass

    def whereabouts(self) -> Any:
        return Process.whereabouts(self)

    def sees_probe(self, folder: str, text: str) -> bool:
        return False

    async def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    machines = Machines()
    for _ in range(2):
        machines.add_node(num_cpus=4, num_gpus=4, object_store_memory=100_000_000)
    yield machines.address
    machines.shutdown()


def options(address: str, **rest: Any) -> ClusterOptions:
    return ClusterOptions(address=address, num_gpus_per_policy_rank=1, start_timeout_s=60.0, **rest)


def prompt_options() -> PromptOptions:
    text = (CONFIGS / "prompt" / "atlas.yaml").read_text()
    return PromptOptions.load(yaml.safe_load(text), where="atlas")


async def places(cluster: Cluster, seats: tuple[Seat, ...]) -> list[tuple[str, tuple[str, ...]]]:
    workers = [cluster.actor(Worker, seat=seat) for seat in seats]
    return list(await asyncio.gather(*(worker.call("place") for worker in workers)))


async def test_ranks_share_a_node_and_engines_have_gpus_of_their_own(address: str) -> None:
    cluster = Cluster(options(address, num_gpus_per_rollout_worker=2))
    try:
        seats = await cluster.reserve(num_ranks=4, num_engines=2)
        ranks, engines = await places(cluster, seats.ranks), await places(cluster, seats.engines)
        assert len({node for node, _ in ranks}) == 1
        assert {node for node, _ in engines}.isdisjoint(node for node, _ in ranks)
        for processes, each in ((ranks, 1), (engines, 2)):
            assert [len(gpus) for _, gpus in processes] == [each] * len(processes)
            assert len({gpu for _, gpus in processes for gpu in gpus}) == 4
        (elsewhere,) = await places(cluster, (None,))  # type: ignore[arg-type]
        assert elsewhere == (cluster.here, ())
    finally:
        await cluster.close()


@pytest.mark.parametrize("tiny_model", [False], indirect=True)
async def test_a_colocated_engine_gets_the_gpus_of_ranks_on_its_node(
    address: str, tiny_model: str
) -> None:
    cluster = Cluster(options(address, num_gpus_per_rollout_worker=2, placement="colocated"))
    try:
        seats = await cluster.reserve(num_ranks=8, num_engines=4)
        assert seats.hosts == ((0, 1), (2, 3), (4, 5), (6, 7))
        ranks, engines = await places(cluster, seats.ranks), await places(cluster, seats.engines)
        assert len(set(ranks)) == 8
        for host, (node, own) in zip(seats.hosts, engines, strict=True):
            assert {ranks[rank][0] for rank in host} == {node}
            assert own == ()  # ray gives it none: it is told
        gpus = tuple(gpu for rank in seats.hosts[3] for gpu in ranks[rank][1])
        engine = cluster.actor(
            RolloutProcess,
            RolloutOptions(engine=EngineOptions(name="hf")),
            prompt_options(),
            EnvironmentOptions(),
            model_path=tiny_model,
            dtype="float32",
            knowledge=RoutedKnowledge(retriever=NoRetriever(), top_k=1),
            seed=0,
            number=3,
            seat=seats.engines[3],
            gpus=gpus,
        )
        for _ in range(2):  # ray must not take them away again
            assert (await engine.call("whereabouts")).gpus == gpus
    finally:
        await cluster.close()


async def test_a_cluster_that_is_too_small_is_one_error_that_says_what_is_there(
    address: str,
) -> None:
    cluster = Cluster(options(address, num_gpus_per_rollout_worker=8))
    try:
        with pytest.raises(InputError, match=r"1 engine\(s\) of 8 GPU\(s\).*4 GPUs.*4 GPUs"):
            await cluster.reserve(num_engines=1)
        with pytest.raises(InputError, match=r"9 policy rank\(s\)"):
            await cluster.reserve(num_ranks=9)
    finally:
        await cluster.close()


async def test_gpus_that_others_use_are_waited_for(address: str) -> None:
    cluster = Cluster(options(address).model_copy(update={"start_timeout_s": 3.0}))
    try:
        others = await cluster.reserve(num_ranks=6)
        with pytest.raises(ComponentError, match="other work kept it for 3 s"):
            await cluster.reserve(num_ranks=4)
        waiting = asyncio.create_task(cluster.reserve(num_ranks=4))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        cluster.release(others)
        assert len((await waiting).ranks) == 4
    finally:
        await cluster.close()


async def test_weights_that_an_engine_cannot_read_are_named_before_a_model_loads(
    address: str,
) -> None:
    cluster = Cluster(options(address))
    try:
        writer = cluster.actor(Worker)
        await cluster.check_weights_dir(writer)
        cluster.actor(Blind)
        with pytest.raises(InputError, match=r"cluster\.weights_dir.*all nodes share"):
            await cluster.check_weights_dir(writer)
    finally:
        await cluster.close()
    assert not cluster.weights_dir.exists()

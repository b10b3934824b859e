"""Plain workers become actors of ray in places that are reserved for them."""

import asyncio
import contextlib
import logging
import os
import socket
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

from ur2.errors import ComponentError, InputError
from ur2.trainer.cluster.actors import Actor, RolloutProcess, Whereabouts, sees_probe
from ur2.trainer.cluster.leftovers import SHARED_MEMORY, OwnedFolder, remove_leftovers
from ur2.trainer.cluster.placement import Bundle, Demand, Machine, plan
from ur2.trainer.options import ClusterOptions

logger = logging.getLogger(__name__)
CLOSE_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 10.0
RETRY_S = 1.0
GRANT_S = 10.0
NODE_ID = "ray.io/node-id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """Where one process goes, and what of it is its own."""

    strategy: Any
    num_gpus: int = 0
    num_cpus: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seats:
    """Seats of a run's ranks and engines, in order."""

    ranks: tuple[Seat, ...]
    engines: tuple[Seat, ...]
    hosts: tuple[tuple[int, ...], ...]
    """By engine, the ranks whose GPUs it shares."""
    group: PlacementGroup | None
    """The resources that are set aside for them, where they need anything."""


class Cluster:
    """Starts workers as ray actors and ends them; nothing is left behind after `close`."""

    def __init__(self, options: ClusterOptions) -> None:
        """Starts ray, or joins a running cluster.

        Raises:
            InputError: there is no cluster at `options.address` that lets this process in, or no
                folder for the weights.
            ComponentError: ray did not start.
        """
        self.options = options
        self.actors: list[Actor] = []
        self._folder = _weights_folder(options)
        self.weights_dir = self._folder.path
        try:
            _join_ray(options)
        except BaseException:  # Ctrl-C too
            ray.shutdown()  # what of it may have started
            self._folder.remove()
            raise
        self.here = ray.get_runtime_context().get_node_id()

    async def reserve(self, *, num_ranks: int = 0, num_engines: int = 0) -> Seats:
        """Sets aside, all at once, what ranks and engines need; waits while other runs have it.

        Raises:
            InputError: the cluster is too small.
            ComponentError: it did not become free in time.
        """
        demand = Demand(options=self.options, num_ranks=num_ranks, num_engines=num_engines)
        nodes = self._nodes(ray.nodes())
        if plan(demand, nodes) is None:
            raise InputError(
                f"this run wants {demand}, and the cluster has {', '.join(map(str, nodes))}: add "
                "nodes, or change cluster.num_* and the numbers of ranks and engines"
            )
        give_up_s = time.monotonic() + self.options.start_timeout_s
        while (seats := await self._take(demand)) is None:
            if time.monotonic() > give_up_s:
                raise ComponentError(
                    f"this run wants {demand}; the cluster has it, but other work kept it for "
                    f"{self.options.start_timeout_s:g} s (cluster.start_timeout_s)"
                )
            await asyncio.sleep(RETRY_S)
        return seats

    def release(self, seats: Seats) -> None:
        """Gives seats back whose processes have ended."""
        if seats.group is not None:
            remove_placement_group(seats.group)

    def actor(self, cls: type, *args: Any, seat: Seat | None = None, **kwargs: Any) -> Actor:
        """A worker of class `cls`, in a process of its own; on this node without a seat."""
        seat = seat or Seat(strategy=NodeAffinitySchedulingStrategy(self.here, soft=False))
        remote = ray.remote(cls).options(
            num_cpus=seat.num_cpus, num_gpus=seat.num_gpus, scheduling_strategy=seat.strategy
        )
        actor = Actor(cls, remote.remote(*args, **kwargs), self.options.call_timeout_s)
        self.actors.append(actor)
        return actor

    async def join(self, ranks: Sequence[Actor]) -> None:
        """Makes policy ranks one process group and lets them load their model."""
        timeout_s = self.options.start_timeout_s
        address, port = await ranks[0].call("rendezvous", timeout_s=timeout_s)
        await asyncio.gather(
            *(rank.call("setup", address, port, timeout_s=timeout_s) for rank in ranks)
        )

    async def check_weights_dir(self, writer: Actor) -> None:
        """Sees that engines, and this process, read there what a policy rank writes.

        Raises:
            InputError: it is a folder of one node only.
        """
        folder, text = str(self.weights_dir), uuid.uuid4().hex
        await writer.call("write_probe", folder, text)
        engines = [actor for actor in self.actors if issubclass(actor.kind, RolloutProcess)]
        seen = await asyncio.gather(*(e.call("sees_probe", folder, text) for e in engines))
        places = await asyncio.gather(*(e.call("whereabouts") for e in engines))
        nodes = sorted({p.node for p, sees in zip(places, seen, strict=True) if not sees})
        if not sees_probe(folder, text):
            nodes.append("the node of this command")
        if nodes:
            raise InputError(
                f"cluster.weights_dir: '{folder}' as the policy writes it cannot be read on "
                f"{', '.join(nodes)}; set it to a folder that all nodes share"
            )

    async def whereabouts(self) -> list[tuple[Actor, Whereabouts]]:
        """Where each worker runs, in the order they were made."""
        places = await asyncio.gather(*(actor.call("whereabouts") for actor in self.actors))
        return list(zip(self.actors, places, strict=True))

    async def stop(self, actors: Sequence[Actor]) -> None:
        """Ends workers: politely, then for good."""
        polite = (actor.call("close", timeout_s=CLOSE_TIMEOUT_S) for actor in actors)
        for problem in await asyncio.gather(*polite, return_exceptions=True):
            if isinstance(problem, BaseException):
                logger.debug("while closing: %s", problem)
        for actor in actors:
            with contextlib.suppress(RayError):  # ray itself has ended
                ray.kill(actor.handle)
        self.actors = [actor for actor in self.actors if actor not in actors]

    async def close(self) -> None:
        """Ends every worker and ray."""
        try:
            await self.stop(self.actors)
        finally:
            ray.shutdown()
            self._folder.remove()
            remove_leftovers()  # of engines that were killed

    async def _take(self, demand: Demand) -> Seats | None:
        """Takes what is free, where that is enough."""
        free = ray._private.state.available_resources_per_node()  # public calls tell the sum only
        bundles = plan(demand, self._nodes(ray.nodes(), free))
        if bundles is None:
            return None
        group = _group(bundles)
        if group is None or await asyncio.to_thread(group.wait, GRANT_S):
            return _seats(demand, bundles, group)
        remove_placement_group(group)  # others were faster
        return None

    def _nodes(
        self, alive: Sequence[Any], free: dict[str, dict[str, float]] | None = None
    ) -> list[Machine]:
        """The nodes with all they have or what of it is free, this one first."""
        nodes = []
        for node in alive:
            if node["Alive"]:
                id_ = node["NodeID"]
                has = node["Resources"] if free is None else free.get(id_, {})
                gpus, cpus = int(has.get("GPU", 0)), has.get("CPU", 0.0)
                address = node["NodeManagerAddress"]
                nodes.append(Machine(id=id_, address=address, gpus=gpus, cpus=cpus))
        return sorted(nodes, key=lambda node: node.id != self.here)


def _join_ray(options: ClusterOptions) -> None:
    """Starts ray, or joins a running cluster.

    Raises:
        InputError: there is none, or it does not let this process in.
        ComponentError: ray did not start.
    """
    local = options.address == "local"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        if not local:
            _reach(options.address)
        ray.init(
            address=options.address,
            include_dashboard=False if local else None,
            object_store_memory=options.object_store_bytes if local else None,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    except OSError as error:
        raise InputError(
            f"cluster.address: no ray cluster answers at '{options.address}' ({error}); start "
            "one with `ray start --head`, or set cluster.address=local"
        ) from error
    except (RuntimeError, ValueError, RayError) as error:
        if local:
            raise ComponentError(f"ray did not start: {error}") from error
        raise InputError(
            f"cluster.address: the ray cluster at '{options.address}' cannot be joined: {error}"
        ) from error


def _reach(address: str) -> None:
    """Fails where nothing listens; ray itself would try for minutes."""
    if address == "auto":
        address = ray._private.services.get_ray_address_from_environment(address, None)
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()


def _group(bundles: Sequence[Bundle]) -> PlacementGroup | None:
    """Asks for all bundles that need anything, each on its node."""
    needy = [bundle for bundle in bundles if _resources(bundle)]
    if not needy:
        return None
    return placement_group(
        [_resources(bundle) for bundle in needy],
        bundle_label_selector=[{NODE_ID: bundle.node.id} for bundle in needy],
    )


def _resources(bundle: Bundle) -> dict[str, float]:
    wanted = {"GPU": float(bundle.gpus), "CPU": bundle.cpus}
    return {name: amount for name, amount in wanted.items() if amount}


def _seats(demand: Demand, bundles: Sequence[Bundle], group: PlacementGroup | None) -> Seats:
    """The place of each process within the bundles."""
    options, index = demand.options, 0
    ranks, engines, hosts = [], [], []
    for bundle in bundles:
        strategy: Any = NodeAffinitySchedulingStrategy(bundle.node.id, soft=False)
        if group is not None and _resources(bundle):
            strategy = PlacementGroupSchedulingStrategy(group, index)
            index += 1
        rank = Seat(
            strategy=strategy,
            num_gpus=options.num_gpus_per_policy_rank,
            num_cpus=options.num_cpus_per_policy_rank,
        )
        ranks += [rank] * len(bundle.ranks)
        if bundle.engine is not None:
            gpus = 0 if demand.shares_gpus else options.num_gpus_per_rollout_worker
            cpus = options.num_cpus_per_rollout_worker
            engines.append(Seat(strategy=strategy, num_gpus=gpus, num_cpus=cpus))
            hosts.append(bundle.ranks)
    return Seats(ranks=tuple(ranks), engines=tuple(engines), hosts=tuple(hosts), group=group)


def _weights_folder(options: ClusterOptions) -> OwnedFolder:
    """Where this run's weights pass through."""
    if options.weights_dir is not None:
        base = Path(options.weights_dir).absolute()
    else:
        base = SHARED_MEMORY if SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
    try:
        base.mkdir(parents=True, exist_ok=True)
        return OwnedFolder(base)
    except OSError as error:
        raise InputError(f"cluster.weights_dir: {error}") from error

"""The only home of ray: plain workers become actors, and every call to them has a deadline."""

import asyncio
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.exceptions import RayError, RayTaskError

from ur2.errors import ComponentError, InputError, RetrievalError, Ur2Error
from ur2.policy.worker import PolicyWorker
from ur2.retrieval.client import Passages
from ur2.retrieval.errors import RetrievalUnavailableError
from ur2.retrieval.options import ServiceOptions
from ur2.retrieval.service import RetrievalService
from ur2.rollout.options import SamplingOptions
from ur2.rollout.worker import RolloutWorker, make_players
from ur2.trainer.options import ClusterOptions
from ur2.types import Assignment, Group

logger = logging.getLogger(__name__)
SHARED_MEMORY = Path("/dev/shm")
WEIGHTS_PREFIX = "ur2-weights-"
NOTES_PREFIX = "engine-"
CLOSE_TIMEOUT_S = 30.0


class Cluster:
    """Starts workers as ray actors and ends them; nothing is left behind after `close`."""

    def __init__(self, options: ClusterOptions) -> None:
        """Starts ray, or joins a running cluster.

        Raises:
            InputError: there is no cluster at `options.address`.
        """
        self.options = options
        self.actors: list[Actor] = []
        local = options.address == "local"
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray.init(
                address=options.address,
                include_dashboard=False if local else None,
                object_store_memory=options.object_store_bytes if local else None,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
        except ConnectionError as error:
            raise InputError(
                f"cluster.address: no ray cluster answers at '{options.address}' ({error}); start "
                "one with `ray start --head`, or set cluster.address=local"
            ) from error
        self.weights_dir = _weights_dir(options)

    def actor(self, cls: type, *args: Any, num_gpus: int = 0, **kwargs: Any) -> "Actor":
        """A worker of class `cls`, in a process of its own."""
        handle = ray.remote(cls).options(num_cpus=0, num_gpus=num_gpus).remote(*args, **kwargs)
        actor = Actor(cls.__name__, handle, self.options.call_timeout_s)
        self.actors.append(actor)
        return actor

    async def join(self, ranks: Sequence["Actor"]) -> None:
        """Makes policy ranks one process group and lets them load their model."""
        timeout_s = self.options.start_timeout_s
        address, port = await ranks[0].call("rendezvous", timeout_s=timeout_s)
        await asyncio.gather(
            *(rank.call("setup", address, port, timeout_s=timeout_s) for rank in ranks)
        )

    async def stop(self, actors: Sequence["Actor"]) -> None:
        """Ends workers: politely, then for good."""
        polite = (actor.call("close", timeout_s=CLOSE_TIMEOUT_S) for actor in actors)
        for problem in await asyncio.gather(*polite, return_exceptions=True):
            if isinstance(problem, BaseException):
                logger.debug("while closing: %s", problem)
        for actor in actors:
            ray.kill(actor.handle)
        self.actors = [actor for actor in self.actors if actor not in actors]

    async def close(self) -> None:
        """Ends every worker and ray."""
        await self.stop(self.actors)
        ray.shutdown()
        if self.options.weights_dir is None:
            shutil.rmtree(self.weights_dir, ignore_errors=True)


class Actor:
    """A worker behind ray: `call` runs its method there."""

    def __init__(self, name: str, handle: Any, timeout_s: float) -> None:
        self.name = name
        self.handle = handle
        self.timeout_s = timeout_s

    async def call(self, method: str, *args: Any, timeout_s: float | None = None) -> Any:
        """Runs a method and waits for its result; it is cancelled there when it is here.

        Raises:
            Ur2Error: what the worker itself raised.
            ComponentError: it died, failed otherwise, or did not answer in time.
        """
        deadline_s = self.timeout_s if timeout_s is None else timeout_s
        answer = getattr(self.handle, method).remote(*args)
        try:
            async with asyncio.timeout(deadline_s):
                return await answer
        except asyncio.CancelledError:
            ray.cancel(answer)
            raise
        except TimeoutError as error:
            raise ComponentError(
                f"{self.name}.{method} did not answer within {deadline_s:g} s "
                "(cluster.call_timeout_s, cluster.start_timeout_s)"
            ) from error
        except RayTaskError as error:
            if isinstance(error.cause, Ur2Error):
                raise error.cause from error
            raise ComponentError(f"{self.name}.{method} failed: {error}") from error
        except RayError as error:
            raise ComponentError(f"{self.name} died: {str(error).strip()}") from error


class PolicyProcess(PolicyWorker):
    """A policy rank that can say where its process group meets."""

    def rendezvous(self) -> tuple[str, int]:
        """Address of this node and a free port on it."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]


class RolloutProcess(RolloutWorker):
    """A rollout worker that builds its engine and renderer where it runs."""

    def __init__(self, *args: Any, seed: int, number: int, notes_dir: Path, **kwargs: Any) -> None:
        """As `make_players`; `number` tells the workers of one run apart.

        Trajectories have seeds of their own, which must not depend on who plays them.
        """
        super().__init__(make_players(*args, seed=seed + number, **kwargs), seed=seed)
        self._notes = notes_dir / f"{NOTES_PREFIX}{number}"

    async def start(self) -> None:
        """Loads the model, and notes the engine's shared memory in case everything is killed."""
        await super().start()
        self._notes.parent.mkdir(parents=True, exist_ok=True)
        self._notes.write_text("\n".join(_shared_memory_in_use()))


class RetrievalProcess:
    """A retrieval service that opens its indexes where it runs."""

    def __init__(self, folders: Mapping[str, str], options: ServiceOptions) -> None:
        self.folders = folders
        self.options = options

    async def start(self) -> None:
        """Opens the indexes and loads the encoders."""
        self.service = RetrievalService.open(self.folders, self.options)

    async def search(
        self, queries: Sequence[str], top_k: int, corpus: str | None, within_s: float
    ) -> list[Passages]:
        """See `RetrievalService.search`."""
        return await self.service.search(queries, top_k, corpus, within_s)

    async def metrics(self) -> dict[str, float]:
        """See `RetrievalService.metrics`."""
        return self.service.metrics()

    async def close(self) -> None:
        """See `RetrievalService.close`."""
        await self.service.close()


class ActorTransport:
    """Reaches a retrieval service that is an actor of this cluster."""

    def __init__(self, service: Actor) -> None:
        self.service = service

    async def search(
        self, queries: Sequence[str], top_k: int, corpus: str | None, within_s: float
    ) -> list[Passages]:
        """One attempt at asking the service."""
        try:
            passages: list[Passages] = await self.service.call(
                "search", queries, top_k, corpus, within_s
            )
        except RetrievalError:
            raise
        except ComponentError as error:
            raise RetrievalUnavailableError(str(error)) from error
        return passages

    async def close(self) -> None:
        """The cluster ends the service."""


class RemoteRollouts:
    """A rollout worker behind ray, as the pool wants it; the pool sets the deadlines."""

    def __init__(self, actor: Actor) -> None:
        self.actor = actor

    async def start(self) -> None:
        """See `RolloutWorker.start`."""
        await self.actor.call("start")

    async def run_group(
        self, assignment: Assignment, num_samples: int, sampling: SamplingOptions, first: int = 0
    ) -> Group:
        """See `RolloutWorker.run_group`."""
        group: Group = await self.actor.call("run_group", assignment, num_samples, sampling, first)
        return group

    async def update_weights(self, path: str, version: int) -> None:
        """See `RolloutWorker.update_weights`."""
        await self.actor.call("update_weights", path, version)

    async def close(self) -> None:
        """See `RolloutWorker.close`."""
        await self.actor.call("close")


def _weights_dir(options: ClusterOptions) -> Path:
    """Where weights pass through."""
    if options.weights_dir is not None:
        return Path(options.weights_dir)
    base = SHARED_MEMORY if SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
    remove_leftovers(base)
    return Path(tempfile.mkdtemp(prefix=f"{WEIGHTS_PREFIX}{os.getpid()}-", dir=base))


def remove_leftovers(base: Path) -> None:
    """Removes what runs that were killed left in shared memory: weights, and engines' buffers."""
    for left in base.glob(f"{WEIGHTS_PREFIX}*"):
        if psutil.pid_exists(int(left.name.removeprefix(WEIGHTS_PREFIX).split("-")[0])):
            continue
        for notes in left.glob(f"{NOTES_PREFIX}*"):
            for path in notes.read_text().splitlines():
                Path(path).unlink(missing_ok=True)
        shutil.rmtree(left, ignore_errors=True)


def _shared_memory_in_use() -> list[str]:
    """Files in shared memory that this process and its children have mapped."""
    me = psutil.Process()
    mapped = {
        Path(region.path)
        for process in (me, *me.children(recursive=True))
        for region in process.memory_maps()
    }
    return sorted(str(path) for path in mapped if path.parent == SHARED_MEMORY and path.exists())

"""The only home of ray: plain workers become actors, and every call to them has a deadline."""

import asyncio
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.exceptions import RayError, RayTaskError

from ur2.errors import ComponentError, Ur2Error
from ur2.policy.worker import PolicyWorker
from ur2.trainer.options import ClusterOptions
from ur2.types import Passage

logger = logging.getLogger(__name__)
SHARED_MEMORY = Path("/dev/shm")
CLOSE_TIMEOUT_S = 30.0
WEIGHTS_PREFIX = "ur2-weights-"


class Cluster:
    """Starts workers as ray actors and ends them; nothing is left behind after `close`."""

    def __init__(self, options: ClusterOptions) -> None:
        self.options = options
        self.actors: list[Actor] = []
        self.weights_dir = _weights_dir(options)
        local = options.address == "local"
        ray.init(
            address=options.address,
            include_dashboard=False if local else None,
            object_store_memory=options.object_store_bytes if local else None,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )

    def actor(self, cls: type, *args: Any, num_gpus: int = 0) -> "Actor":
        """A worker of class `cls`, in a process of its own."""
        handle = ray.remote(cls).options(num_cpus=0, num_gpus=num_gpus).remote(*args)
        actor = Actor(cls.__name__, handle, self.options.call_timeout_s)
        self.actors.append(actor)
        return actor

    async def start(self, actors: Sequence["Actor"], *args: Any) -> None:
        """Runs `start` on workers of one kind, all at once."""
        timeout_s = self.options.start_timeout_s
        await asyncio.gather(*(a.call("start", *args, timeout_s=timeout_s) for a in actors))

    async def start_policy(self, ranks: Sequence["Actor"]) -> None:
        """Joins policy ranks into one process group."""
        address, port = await ranks[0].call("rendezvous")
        await asyncio.gather(
            *(r.call("setup", address, port, timeout_s=self.options.start_timeout_s) for r in ranks)
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
        """Runs a method and waits for its result.

        Raises:
            Ur2Error: what the worker itself raised.
            ComponentError: it died, failed otherwise, or did not answer in time.
        """
        deadline_s = self.timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(deadline_s):
                return await getattr(self.handle, method).remote(*args)
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


class ActorTransport:
    """Reaches a retrieval service that is an actor of this cluster."""

    def __init__(self, service: Actor) -> None:
        self.service = service

    async def search(self, queries: Sequence[str], top_k: int) -> list[tuple[Passage, ...]]:
        """One request to the service."""
        passages: list[tuple[Passage, ...]] = await self.service.call("search", queries, top_k)
        return passages


class PolicyRank(PolicyWorker):
    """A policy worker that can say where its process group meets."""

    def rendezvous(self) -> tuple[str, int]:
        """Address of this node and a free port on it."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]


def _weights_dir(options: ClusterOptions) -> Path:
    """Where weights pass through, after removing what killed runs left there."""
    if options.weights_dir is not None:
        return Path(options.weights_dir)
    base = SHARED_MEMORY if SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
    for left in base.glob(f"{WEIGHTS_PREFIX}*"):
        if not psutil.pid_exists(int(left.name.removeprefix(WEIGHTS_PREFIX).split("-")[0])):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{WEIGHTS_PREFIX}{os.getpid()}-", dir=base))

"""Workers that run in processes of their own, and the calls that reach them."""

import asyncio
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from ur2.environments.base import Branch
from ur2.errors import ComponentError, RetrievalError, Ur2Error
from ur2.policy.weight_sender import free_port
from ur2.policy.worker import PolicyWorker
from ur2.retrieval.client.errors import RetrievalUnavailableError
from ur2.retrieval.client.retriever import Passages
from ur2.retrieval.options import ServiceOptions
from ur2.retrieval.service.batching import RetrievalService
from ur2.rollout.options import SamplingOptions
from ur2.rollout.worker import RolloutWorker, make_players
from ur2.trainer.cluster.leftovers import (
    SHARED_MEMORY,
    Notes,
    remove_leftovers,
    shared_memory_in_use,
)
from ur2.transfer.records import Handover
from ur2.types import Assignment, Group

PROBE = "probe"


class Actor:
    """A worker behind ray: `call` runs its method there."""

    def __init__(self, kind: type, handle: Any, timeout_s: float) -> None:
        self.kind = kind
        self.name = kind.__name__
        self.handle = handle
        self.timeout_s = timeout_s

    async def call(self, method: str, *args: Any, timeout_s: float | None = None) -> Any:
        """Runs a method and waits for its result; it is cancelled there when it is here.

        Raises:
            Ur2Error: what the worker itself raised.
            ComponentError: it died, failed otherwise, or did not answer in time.
        """
        deadline_s = self.timeout_s if timeout_s is None else timeout_s
        if not ray.is_initialized():
            raise ComponentError(f"{self.name}.{method} was called after ray's end")
        try:
            answer = getattr(self.handle, method).remote(*args)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Whereabouts:
    """Where a process runs."""

    node: str
    gpus: tuple[str, ...]
    """As its node numbers them."""
    pid: int
    num_threads: int
    """Threads of its kernels on CPU."""


class Process:
    """The methods that every actor has besides its work."""

    def whereabouts(self) -> Whereabouts:
        """Where it runs."""
        return Whereabouts(
            node=ray.util.get_node_ip_address(),
            gpus=tuple(filter(None, os.environ.get("CUDA_VISIBLE_DEVICES", "").split(","))),
            pid=os.getpid(),
            num_threads=torch.get_num_threads(),
        )

    def write_probe(self, folder: str, text: str) -> None:
        """Leaves a file for the others to see, unless this node lacks the folder."""
        if Path(folder).is_dir():
            (Path(folder) / PROBE).write_text(text)

    def sees_probe(self, folder: str, text: str) -> bool:
        """Whether the file of a probe is seen from this process."""
        return sees_probe(folder, text)


def sees_probe(folder: str, text: str) -> bool:
    """Whether what `write_probe` left is in this node's `folder`."""
    probe = Path(folder) / PROBE
    return probe.exists() and probe.read_text() == text


class PolicyProcess(PolicyWorker, Process):
    """A policy rank that can say where its process group meets."""

    def rendezvous(self) -> tuple[str, int]:
        """Address of this node and a free port on it."""
        return ray.util.get_node_ip_address(), free_port()


class RolloutProcess(RolloutWorker, Process):
    """A rollout worker that builds its engine and renderer where it runs."""

    def __init__(
        self,
        *args: Any,
        seed: int,
        number: int,
        gpus: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Makes the players of a worker; `number` tells the workers of one run apart.

        Trajectories have seeds of their own, which must not depend on who plays them. `gpus` are
        those of policy ranks, which ray does not know to be this worker's, too.
        """
        if gpus is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        super().__init__(
            make_players(*args, seed=seed + number, sleeps=gpus is not None, **kwargs), seed=seed
        )
        self._notes: Notes | None = None

    def whereabouts(self) -> Whereabouts:
        """Where it runs; the threads are those of the engine, which may have further processes."""
        threads = self._players.options.engine.num_threads
        return replace(super().whereabouts(), num_threads=threads)

    async def start(self) -> None:
        """Loads the model, and notes the engine's shared memory in case it is killed."""
        remove_leftovers()  # of an engine that was killed here, whose place this may take
        await super().start()
        if SHARED_MEMORY.is_dir():
            self._notes = Notes(shared_memory_in_use())

    async def close(self) -> None:
        """Ends the engine."""
        await super().close()
        if self._notes is not None:
            self._notes.close()


class RetrievalProcess(Process):
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
        """Searches in the service's batches."""
        return await self.service.search(queries, top_k, corpus, within_s)

    async def metrics(self) -> dict[str, float]:
        """The figures of the service."""
        return self.service.metrics()

    async def close(self) -> None:
        """Ends the service."""
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
        """Loads the model."""
        await self._call("start")

    async def run_group(
        self,
        assignment: Assignment,
        num_samples: int,
        sampling: SamplingOptions,
        first: int = 0,
        branches: Sequence[Branch] = (),
    ) -> Group:
        """Plays a part of a group, or branches of it."""
        asked = (assignment, num_samples, sampling, first, tuple(branches))
        group: Group = await self._call("run_group", *asked)
        return group

    async def take_lost_tokens(self) -> int:
        """Tokens sampled since the last call for groups that were given up or failed."""
        num_tokens: int = await self._call("take_lost_tokens")
        return num_tokens

    async def take_writing_s(self) -> float:
        """Seconds since the last call in which the engine had a turn to write."""
        seconds: float = await self._call("take_writing_s")
        return seconds

    async def take(self, handover: Handover, version: int) -> None:
        """Gives the engine weights, or the channel for them."""
        await self._call("take", handover, version)

    async def sleep(self, *, keep_weights: bool) -> None:
        """Gives the engine's memory back."""
        await self._call("sleep", keep_weights)

    async def wake(self) -> None:
        """Takes it again."""
        await self._call("wake")

    async def close(self) -> None:
        """Stops the engine; safe to call twice."""
        await self._call("close")

    async def _call(self, method: str, *args: Any) -> Any:
        return await self.actor.call(method, *args, timeout_s=math.inf)

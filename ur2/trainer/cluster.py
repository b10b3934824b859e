"""The only home of ray: plain workers become actors, and calls to them get a deadline."""

import asyncio
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from ur2.errors import ComponentError, InputError, Ur2Error
from ur2.policy.worker import PolicyWorker
from ur2.retrieval.service import RetrievalService
from ur2.rollout.worker import RolloutWorker
from ur2.trainer.options import ClusterOptions
from ur2.types import Passage

logger = logging.getLogger(__name__)
T = TypeVar("T")
SHARED_MEMORY = Path("/dev/shm")
MANY = 1_000_000
"""Concurrent calls of an asynchronous actor; its own scheduling bounds the work."""


class Cluster:
    """Starts workers and ends them; nothing is left behind after `close`."""

    def __init__(self, options: ClusterOptions) -> None:
        self.options = options
        self.actors: list[RemoteActor] = []
        _start_ray(options)
        self.weights_dir = Path(
            options.weights_dir
            or tempfile.mkdtemp(
                prefix="ur2-weights-", dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
            )
        )

    def start(self, cls: type, *args: Any, num_gpus: int = 0, **kwargs: Any) -> "RemoteActor":
        """A worker of class `cls` in a process of its own."""
        actor = (
            ray.remote(cls)
            .options(num_cpus=0, num_gpus=num_gpus, max_concurrency=1)
            .remote(*args, **kwargs)
        )
        return self._keep(RemoteActor(cls.__name__, actor, self.options.call_timeout_s))

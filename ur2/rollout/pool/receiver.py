"""A rollout worker as a publication of weights sees it."""

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

from ur2.transfer.records import Rendezvous, WeightsManifest


class TakesWeights(Protocol):
    """A worker whose engine gets new weights; see `Engine` for what the calls do."""

    def update_weights(self, path: str, version: int) -> Coroutine[Any, Any, None]:
        """Takes those of a directory."""
        ...

    def join_policy(self, rendezvous: Rendezvous) -> Coroutine[Any, Any, None]:
        """Opens a channel to the policy."""
        ...

    def receive_weights(self, manifest: WeightsManifest, version: int) -> Coroutine[Any, Any, None]:
        """Takes those that come over it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReceiver:
    """See `ur2.transfer.publication.Receiver`."""

    worker: TakesWeights
    num_ranks: int
    limit_s: float
    timed: Callable[[str, Awaitable[None]], Awaitable[None]] = field(compare=False)
    """Waits for a call, so named, no longer than the limit."""

    async def load(self, path: str, version: int) -> None:
        """Takes the weights of directory `path`."""
        await self.timed(f"weights {version}", self.worker.update_weights(path, version))

    async def join(self, rendezvous: Rendezvous) -> None:
        """Opens a channel."""
        await self.timed("channel to the policy", self.worker.join_policy(rendezvous))

    async def receive(self, manifest: WeightsManifest, version: int) -> None:
        """Takes the weights that come over the channel."""
        await self.timed(f"weights {version}", self.worker.receive_weights(manifest, version))

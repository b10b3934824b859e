"""A rollout worker as a publication of weights sees it."""

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

from ur2.transfer.records import Handover, Rendezvous


class TakesWeights(Protocol):
    """A worker whose engine gets new weights."""

    def take(self, handover: Handover, version: int) -> Coroutine[Any, Any, None]:
        """Takes weights, or opens the channel over which they will come, as `Engine.take` does."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReceiver:
    """A worker and the time that it may take; two of the same worker are equal."""

    worker: TakesWeights
    num_ranks: int
    limit_s: float
    timed: Callable[[str, Awaitable[None]], Awaitable[None]] = field(compare=False)
    """Waits for a call, so named, no longer than the limit."""

    async def take(self, handover: Handover, version: int) -> None:
        """Lets the worker take weights within the limit."""
        opens = isinstance(handover, Rendezvous)
        what = "channel to the policy" if opens else f"weights {version}"
        await self.timed(what, self.worker.take(handover, version))

"""The seam between the policy and the rollout workers: one version of the weights on its way.

    publication = await policy.publish(version)
    await rollouts.take(publication)

The pool hands a publication its workers, all at once, and later each worker that had to be started
again. The publication knows the way.
"""

import asyncio
import dataclasses
import shutil
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from ur2.errors import ComponentError
from ur2.transfer.checks import is_verified
from ur2.transfer.proof import call_off
from ur2.transfer.records import (
    PART_BYTES,
    ChannelError,
    ChannelName,
    Handover,
    Rendezvous,
    WeightFolder,
    WeightsManifest,
)

Failures = list[ComponentError | None]
"""Failures by receiver, None where it has the weights."""
RETRY_S = 0.1


class Receiver(Protocol):
    """A rollout worker that takes weights; every call ends in time or with a ComponentError.

    Two receivers of the same worker are equal.
    """

    @property
    def num_ranks(self) -> int:
        """Processes that share its model."""
        ...

    @property
    def limit_s(self) -> float:
        """Longest time that a call takes."""
        ...

    async def take(self, handover: Handover, version: int) -> None:
        """Takes the weights of `version`, or opens the channel over which they will come."""
        ...


class Publication(Protocol):
    """One version of the weights."""

    async def deliver(self, receivers: Sequence[Receiver]) -> Failures:
        """Gives them to workers, which go on under them.

        Raises:
            ComponentError: the policy failed.
        """
        ...

    def discard(self) -> None:
        """Frees what it holds, once every worker has these weights or later ones."""
        ...


class Ranks(Protocol):
    """The policy's ranks, as a channel needs them."""

    async def call_all(self, method: str, *args: Any) -> None:
        """Runs a method on every rank."""
        ...

    async def call_first(self, method: str) -> Any:
        """Runs a method on rank 0 and returns its answer."""
        ...


class Files:
    """Weights in a folder; each worker reads it when it can."""

    def __init__(self, folder: Path, version: int) -> None:
        self.folder = folder
        self.version = version

    async def deliver(self, receivers: Sequence[Receiver]) -> Failures:
        """Lets every receiver read the folder, on its own."""
        return await _all(r.take(WeightFolder(str(self.folder)), self.version) for r in receivers)

    def discard(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Stream:
    """Weights that go from the policy's memory to the engines' over a channel.

    The channel is opened among the policy and the workers that are to get weights, and anew
    whenever these are others: for a worker that was started again, and then for all. What is sent
    is always what the policy holds, under the version of that: a worker that starts between an
    update and its publication gets the updated weights.
    """

    def __init__(
        self,
        ranks: Ranks,
        channel: ChannelName,
        verify: Literal["first", "always", "never"],
        part_bytes: int = PART_BYTES,
    ) -> None:
        """Nothing is opened before the first delivery.

        Args:
            ranks: of the policy.
            channel: which kind.
            verify: which deliveries over one channel engines verify.
            part_bytes: see `Rendezvous`.
        """
        self.version = 0
        self._ranks = ranks
        self._channel: ChannelName = channel
        self._verify: Literal["first", "always", "never"] = verify
        self._part_bytes = part_bytes
        self._joined: list[Receiver] = []
        self._num_sent = 0
        self._manifest: WeightsManifest
        self._still = asyncio.Lock()

    @asynccontextmanager
    async def moving(self) -> AsyncIterator[None]:
        """Inside, the policy's weights become those of the next version; nobody reads them."""
        async with self._still:
            yield
            self.version += 1

    async def deliver(self, receivers: Sequence[Receiver]) -> Failures:
        """Sends to all receivers at once.

        A worker that fails on the way takes the channel with it; the others get a new one.
        """
        async with self._still:
            failures = await self._attempt(receivers)
            others = [r for r, f in zip(receivers, failures, strict=True) if _is_well(f)]
            if others:
                again = iter(await self._attempt(others))
                failures = [next(again) if _is_well(f) else f for f in failures]
            return failures

    def discard(self) -> None:
        """Holds nothing."""

    async def _attempt(self, receivers: Sequence[Receiver]) -> Failures:
        if self._joined != list(receivers):
            failures = await self._open(receivers)
            if any(failures):
                return failures
        manifest = dataclasses.replace(
            self._manifest, verified=is_verified(self._verify, self._num_sent)
        )
        failures = await self._at_both_ends(
            self._ranks.call_all("give", manifest, self.version),
            [receiver.take(manifest, self.version) for receiver in receivers],
            limit_s=max(receiver.limit_s for receiver in receivers),
        )
        self._num_sent += 1
        return failures

    async def _open(self, receivers: Sequence[Receiver]) -> Failures:
        address, port, secret = await self._ranks.call_first("rendezvous_place")
        self._manifest = await self._ranks.call_first("manifest")
        limit_s = max(receiver.limit_s for receiver in receivers)
        rendezvous = Rendezvous(
            channel=self._channel,
            address=address,
            port=port,
            num_ranks=1 + sum(receiver.num_ranks for receiver in receivers),
            first_rank=0,
            timeout_s=limit_s / 2,  # the policy gives up on a worker that hangs before its limit
            secret=secret,
            part_bytes=self._part_bytes,
        )
        ours = asyncio.ensure_future(self._ranks.call_all("give", rendezvous, self.version))
        joining, first_rank = [], 1
        for receiver in receivers:
            theirs = dataclasses.replace(rendezvous, first_rank=first_rank)
            joining.append(_join_or_call_off(receiver, theirs, self.version, ours))
            first_rank += receiver.num_ranks
        failures = await self._at_both_ends(ours, joining, limit_s=limit_s)
        if any(failures):
            return [failure or ChannelError("another engine did not join") for failure in failures]
        self._joined, self._num_sent = list(receivers), 0
        return failures

    async def _at_both_ends(
        self, ours: Awaitable[None], theirs: Sequence[Awaitable[None]], *, limit_s: float
    ) -> Failures:
        """Both ends at once; after any failure the channel is not used again."""
        policy, *failures = await _all([_in_time(ours, limit_s), *theirs])
        if policy is not None or any(failures):
            self._joined = []
        if policy is not None and not (_is_well(policy) and any(failures)):
            raise policy
        return failures


async def _join_or_call_off(
    receiver: Receiver, rendezvous: Rendezvous, version: int, policy: asyncio.Future[None]
) -> None:
    """Where a worker does not come, the policy need not wait for its processes."""
    try:
        await receiver.take(rendezvous, version)
    except ComponentError:
        num_left = receiver.num_ranks if rendezvous.channel == "tcp" else 0
        while num_left and not policy.done():
            num_left -= await asyncio.to_thread(call_off, rendezvous)
            await asyncio.sleep(RETRY_S)
        raise


def _is_well(failure: ComponentError | None) -> bool:
    return isinstance(failure, ChannelError)


async def _in_time(sending: Awaitable[None], limit_s: float) -> None:
    try:
        async with asyncio.timeout(limit_s):
            await sending
    except TimeoutError as error:
        raise ComponentError(
            f"the policy could not send its weights within {limit_s:g} s (rollout.update_timeout_s)"
        ) from error


async def _all(calls: Iterable[Awaitable[None]]) -> Failures:
    """The failures of calls; errors that are not of components are raised."""
    failures: Failures = []
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        if outcome is not None and not isinstance(outcome, ComponentError):
            raise outcome
        failures.append(outcome)
    return failures

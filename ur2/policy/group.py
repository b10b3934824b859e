"""The policy as one thing: the same call on every rank, one answer."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ur2.errors import ComponentError
from ur2.policy.batch.packing import plan
from ur2.policy.options import PolicyOptions
from ur2.transfer.choice import Way
from ur2.transfer.publication import Files, Publication, Stream
from ur2.transfer.records import WeightFolder
from ur2.types import Batch, Sample

Trace = Callable[[str, str, float, float], object]


class Rank(Protocol):
    """One policy worker, wherever it runs."""

    async def call(self, method: str, *args: Any) -> Any:
        """Runs `PolicyWorker.<method>(*args)` there.

        Raises:
            ComponentError: the worker failed, died or did not answer in time.
        """


class PolicyGroup:
    """All ranks of the policy; ranks always make the same calls in the same order."""

    def __init__(
        self,
        ranks: Sequence[Rank],
        options: PolicyOptions,
        weights_dir: Path,
        trace: Trace = lambda *_: None,
        transfer: Way = "files",
    ) -> None:
        """All ranks of one policy.

        Args:
            ranks: set up, in order.
            options: how a batch is split.
            weights_dir: where weights pass through that are published as files.
            trace: told of each span of work: rank, method, and from when to when in epoch seconds.
            transfer: which way published weights take.
        """
        self.ranks = ranks
        self._trace = trace
        self.options = options
        self.weights_dir = weights_dir
        self._stream: Stream | None = None
        if transfer != "files":
            self._stream = Stream(self, transfer, options.verify_weights)

    async def update(self, batch: Batch, step: int) -> dict[str, float]:
        """One pass of `updates_per_rollout` optimizer steps over the batch.

        Args:
            batch: what the loop made in this step.
            step: the loop's, from 1; schedules follow it, so that one without a batch counts too.

        Returns:
            Metrics over all ranks.
        """
        planned = plan(
            batch,
            num_updates=self.options.updates_per_rollout,
            num_ranks=len(self.ranks),
            max_tokens_per_microbatch=self.options.max_tokens_per_microbatch,
        )
        async with self._stream.moving() if self._stream is not None else nullcontext():
            reports = await self._gather(
                [self._call(i, "update", planned.for_rank(i), step) for i in range(len(self.ranks))]
            )
        return {**reports[0], "policy/padding_fraction": planned.padding_fraction}

    async def logprobs(self, samples: Sequence[Sample]) -> list[NDArray[np.float32]]:
        """The policy's logprob of every trained token, one array (T,) per sample."""
        return await self._per_token("logprobs", samples)

    async def reference_logprobs(self, samples: Sequence[Sample]) -> list[NDArray[np.float32]]:
        """Logprobs under the model that training started from; with a KL coefficient only."""
        return await self._per_token("reference_logprobs", samples)

    async def values(self, samples: Sequence[Sample]) -> list[NDArray[np.float32]]:
        """The critic's expectation before each trained token; with the estimator `gae` only."""
        return await self._per_token("values", samples)

    async def publish(self, version: int) -> Publication:
        """The weights as `version`, for engines to take."""
        if self._stream is not None:
            self._stream.version = version
            return self._stream
        folder = self.weights_dir / f"v{version:06d}"
        await self.call_all("give", WeightFolder(str(folder)), version)
        return Files(folder, version)

    async def call_all(self, method: str, *args: Any) -> None:
        """Runs a method on every rank: `save`, `load`, `export`, `close`."""
        await self._gather([self._call(i, method, *args) for i in range(len(self.ranks))])

    async def call_first(self, method: str) -> Any:
        """The answer of rank 0 to a method that is not collective."""
        return await self._call(0, method)

    async def _per_token(self, method: str, samples: Sequence[Sample]) -> list[NDArray[np.float32]]:
        calls = [self._call(i, method, samples) for i in range(len(self.ranks))]
        return list((await self._gather(calls))[0])

    async def _call(self, rank: int, method: str, *args: Any) -> Any:
        start_s = time.time()
        try:
            return await self.ranks[rank].call(method, *args)
        finally:
            self._trace(f"policy rank {rank}", method, start_s, time.time())

    async def _gather(self, calls: Sequence[Any]) -> list[Any]:
        """Waits for all ranks; the first failure is the one that is reported."""
        tasks = [asyncio.ensure_future(call) for call in calls]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in pending:
            task.cancel()
        for task in done:
            if (failure := task.exception()) is not None:
                raise failure
        if pending:
            raise ComponentError("a policy rank was cancelled")
        return [task.result() for task in tasks]

"""The policy as one thing: the same call on every rank, one answer."""

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ur2.errors import ComponentError
from ur2.policy.options import PolicyOptions
from ur2.policy.packing import plan
from ur2.types import Batch, Sample


class Rank(Protocol):
    """One policy worker, wherever it runs."""

    async def call(self, method: str, *args: Any) -> Any:
        """Runs `PolicyWorker.<method>(*args)` there.

        Raises:
            ComponentError: the worker failed, died or did not answer in time.
        """


class PolicyGroup:
    """All ranks of the policy; ranks always make the same calls in the same order."""

    def __init__(self, ranks: Sequence[Rank], options: PolicyOptions, weights_dir: Path) -> None:
        self.ranks = ranks
        self.options = options
        self.weights_dir = weights_dir

    async def update(self, batch: Batch) -> dict[str, float]:
        """One pass of `updates_per_rollout` optimizer steps over the batch; returns metrics."""
        planned = plan(
            batch,
            num_updates=self.options.updates_per_rollout,
            num_ranks=len(self.ranks),
            max_tokens_per_microbatch=self.options.max_tokens_per_microbatch,
        )
        reports = await self._gather(
            [rank.call("update", planned.for_rank(i)) for i, rank in enumerate(self.ranks)]
        )
        return dict(reports[0])

    async def logprobs(self, samples: Sequence[Sample]) -> list[NDArray[np.float32]]:
        """The policy's logprob of every trained token, one array (T,) per sample."""
        return list((await self._gather([r.call("logprobs", samples) for r in self.ranks]))[0])

    async def publish(self, version: int) -> str:
        """Writes the weights where engines can load them; returns the folder."""
        folder = str(self.weights_dir / f"v{version:06d}")
        await self.everywhere("publish", folder, version)
        return folder

    def discard(self, folder: str) -> None:
        """Removes published weights once every engine has them."""
        shutil.rmtree(folder, ignore_errors=True)

    async def everywhere(self, method: str, *args: Any) -> None:
        """Runs a method on every rank: `save`, `load`, `export`, `close`."""
        await self._gather([rank.call(method, *args) for rank in self.ranks])

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

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from ur2.errors import ComponentError
from ur2.rollout.options import SamplingOptions
from ur2.trainer.cluster.actors import Actor, RemoteRollouts
from ur2.transfer.records import WeightFolder


class SlowHandle:
    """An actor whose methods answer their own name, after a while."""

    def __getattr__(self, name: str) -> Any:
        async def answer(*args: Any) -> str:
            await asyncio.sleep(0.05)
            return name

        return SimpleNamespace(remote=answer)


async def test_a_group_may_take_longer_than_a_call_to_a_policy_rank(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    actor = Actor(SlowHandle, SlowHandle(), timeout_s=0.01)
    with pytest.raises(ComponentError, match=r"did not answer within 0\.01 s"):
        await actor.call("update")
    worker: Any = RemoteRollouts(actor)
    assert await worker.run_group(None, 1, SamplingOptions()) == "run_group"
    await worker.start()
    await worker.take(WeightFolder("weights"), 1)

"""The policy as one thing: what it publishes, and when its weights are whose version."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ur2.errors import ComponentError
from ur2.policy.group import PolicyGroup
from ur2.policy.options import PolicyOptions
from ur2.transfer.publication import Files, Stream
from ur2.transfer.records import WeightFolder
from ur2.types import Batch, Sample


class ScriptedRank:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.updating = asyncio.Event()

    async def call(self, method: str, *args: Any) -> Any:
        self.calls.append((method, *args))
        if method == "update":
            await self.updating.wait()
            return {"policy/loss": 1.0}
        return f"the {method}"


def batch() -> Batch:
    sample = Sample(
        id="s",
        token_ids=np.arange(4),
        mask=np.array([False, True, True, True]),
        advantages=np.ones(4, dtype=np.float32),
        sampler_logprobs=np.zeros(4, dtype=np.float32),
    )
    return Batch(samples=(sample,))


async def test_files_are_written_by_every_rank_into_a_folder_per_version(tmp_path: Path) -> None:
    ranks = [ScriptedRank(), ScriptedRank()]
    group = PolicyGroup(ranks, PolicyOptions(), tmp_path)
    published = await group.publish(12)
    assert isinstance(published, Files)
    assert (published.folder, published.version) == (tmp_path / "v000012", 12)
    given = ("give", WeightFolder(str(tmp_path / "v000012")), 12)
    assert [rank.calls for rank in ranks] == [[given]] * 2


async def test_a_channel_writes_nothing_and_follows_the_weights(tmp_path: Path) -> None:
    rank = ScriptedRank()
    group = PolicyGroup([rank], PolicyOptions(), tmp_path, transfer="tcp")
    published = await group.publish(3)
    assert isinstance(published, Stream)
    assert not rank.calls
    updating = asyncio.create_task(group.update(batch(), 4))
    await asyncio.sleep(0)
    rank.updating.set()
    await updating
    assert published.version == 4  # until it is published as such
    assert await group.publish(4) is published
    assert published.version == 4


async def test_what_a_rank_does_is_traced_though_it_fails(tmp_path: Path) -> None:
    class Fails(ScriptedRank):
        async def call(self, method: str, *args: Any) -> Any:
            raise ComponentError("no")

    spans: list[tuple[Any, ...]] = []
    group = PolicyGroup(
        [ScriptedRank(), Fails()],
        PolicyOptions(),
        tmp_path,
        trace=lambda *span: spans.append(span),
    )
    with pytest.raises(ComponentError):
        await group.call_all("save")
    assert sorted(span[:2] for span in spans) == [
        ("policy rank 0", "save"),
        ("policy rank 1", "save"),
    ]


async def test_rank_0_answers_for_all(tmp_path: Path) -> None:
    ranks = [ScriptedRank(), ScriptedRank()]
    group = PolicyGroup(ranks, PolicyOptions(), tmp_path)
    assert await group.call_first("manifest") == "the manifest"
    assert [rank.calls for rank in ranks] == [[("manifest",)], []]

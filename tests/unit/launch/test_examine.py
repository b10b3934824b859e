"""A preflight over nodes that are this process."""

from collections.abc import Mapping
from typing import Any

import pytest

from ur2.launch.checks import NodeChecks
from ur2.launch.examine import examine
from ur2.launch.options import JobOptions, LaunchOptions
from ur2.launch.preflight import Needs

NOTHING = Needs(inputs={}, shared={}, hub_models=[], num_gpus=0)
JOB = JobOptions(address="http://head:8265", min_shared_memory_gib=0)
LAUNCH = LaunchOptions(hosts=("a",), min_shared_memory_gib=0)


class Here:
    """A node that is this process, known at an address."""

    def __init__(self, host: str, address: str | None, **facts: Any) -> None:
        self.host = host
        self.address = address
        self.checks = NodeChecks()
        self.facts: Mapping[str, Any] = facts

    async def ask(self, do: str, *, within_s: float, **request: Any) -> Any:
        answer = getattr(self.checks, do)(**request)
        return answer | self.facts if do == "facts" else answer

    def how_to_look(self) -> str:
        return ""


async def test_nodes_are_reached_where_their_cluster_knows_them() -> None:
    nodes = [Here("a", "127.0.0.8"), Here("b", "127.0.0.9")]
    try:
        found, problems = await examine(nodes, NOTHING, JOB, token="t")
    finally:
        for node in nodes:
            node.checks.close()
    assert [node.facts["address"] for node in found] == ["127.0.0.8", "127.0.0.9"]
    assert problems == []


@pytest.mark.parametrize(("options", "is_launch"), [(JOB, False), (LAUNCH, True)])
async def test_advice_names_options_that_there_are(
    options: JobOptions | LaunchOptions, is_launch: bool
) -> None:
    wanted = options.model_copy(update={"min_shared_memory_gib": 1e9})
    node = Here("a", "127.0.0.8", held=[1])  # which nothing listens on
    try:
        _, problems = await examine([node], NOTHING, wanted, token="t")
    finally:
        node.checks.close()
    advice = {problem.what.split()[0]: problem.do for problem in problems}
    assert ("launch.head_address" in advice["does"]) == is_launch
    assert ("launch." if is_launch else "job.") + "min_shared" in advice["/dev/shm"]

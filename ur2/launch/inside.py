"""Inside a ray job: checks every node of its cluster, then becomes the training.

Ray is joined here only to put the checks on the nodes; the training joins it anew.
"""

import asyncio
import logging
import os
import secrets
import sys
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console

from ur2.errors import ComponentError, InputError, run_entry
from ur2.launch.checks import NodeChecks
from ur2.launch.examine import examine
from ur2.launch.needs import compose_first, needs_of
from ur2.launch.options import JobOptions
from ur2.launch.preflight import nodes_table, problems_table


class RayNode:
    """A node of this cluster, whose checks run in an actor there."""

    def __init__(self, node: dict[str, Any]) -> None:
        self.host = node["NodeManagerHostname"]
        self.address = node["NodeManagerAddress"]
        place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        options = {"num_cpus": 0, "scheduling_strategy": place}
        self.checks = ray.remote(NodeChecks).options(**options).remote()

    async def ask(self, do: str, *, within_s: float, **request: Any) -> Any:
        """Asks the agent on this node, as `NodeChecks` describes.

        Raises:
            ComponentError: no answer came.
        """
        try:
            async with asyncio.timeout(within_s):
                return await getattr(self.checks, do).remote(**request)
        except (TimeoutError, ray.exceptions.RayError) as error:
            raise ComponentError(f"{do}: {error or f'no answer within {within_s:g} s'}") from error

    def how_to_look(self) -> str:
        """Advice to a person where no answer came."""
        return "look at the node's log on the dashboard"


async def check(options: JobOptions, overrides: list[str]) -> None:
    """Prints what the nodes are and what is wrong.

    Raises:
        InputError: something is.
    """
    run = compose_first(overrides)
    head = ray.get_runtime_context().get_node_id()
    alive = [node for node in ray.nodes() if node["Alive"]]
    nodes = [RayNode(node) for node in sorted(alive, key=lambda node: node["NodeID"] != head)]
    console = Console(stderr=True)
    found, problems = await examine(
        nodes, needs_of(run, options, len(nodes)), options, token=secrets.token_hex(8)
    )
    await asyncio.gather(
        *(node.ask("close", within_s=options.preflight_timeout_s) for node in nodes)
    )
    if found:
        console.print(nodes_table(found))
    if problems:
        console.print(problems_table(problems))
        raise InputError(f"preflight: {len(problems)} problem(s), as above; nothing was loaded")


def main() -> None:
    """Checks, then runs the training in this process's place."""
    options = JobOptions.model_validate_json(sys.argv[1])
    overrides = sys.argv[2:]
    ray.init(address="auto", logging_level=logging.ERROR, log_to_driver=False)
    try:
        asyncio.run(check(options, overrides))
    finally:
        ray.shutdown()
    sys.stderr.flush()
    words = [sys.executable, "-m", "ur2.train", *overrides, "cluster.address=auto"]
    os.execv(sys.executable, words)


if __name__ == "__main__":
    run_entry(main)

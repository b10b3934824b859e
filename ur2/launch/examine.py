"""Asks every node what the preflight wants to know."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from ur2.errors import ComponentError
from ur2.launch.options import PreflightOptions
from ur2.launch.ports import Ports
from ur2.launch.preflight import Found, LaunchProblem, Needs, problems_of

T = TypeVar("T")
ANY_ADDRESS = "8.8.8.8"
"""An address to which only the way matters: the interface that leads outside."""


class Examined(Protocol):
    """A node that answers with the methods of `NodeChecks`."""

    host: str
    address: str | None
    """Where the others reach it, if that is known; otherwise it is asked."""

    async def ask(self, do: str, *, within_s: float, **request: Any) -> Any:
        """The answer; a ComponentError where none came."""

    def how_to_look(self) -> str:
        """Advice to a person where no answer came."""


NodeT = TypeVar("NodeT", bound=Examined)


async def examine(
    nodes: Sequence[Examined],
    needs: Needs,
    options: PreflightOptions,
    *,
    token: str,
    ports: Sequence[Ports] = (),
) -> tuple[list[Found], list[LaunchProblem]]:
    """Examines the nodes: what they found, and all that is wrong with it.

    Args:
        nodes: the first is the head.
        needs: of the run.
        options: what the nodes must have.
        token: tells this preflight's probe files from others'.
        ports: of the ray to be started, by node; none where it runs already.
    """
    within_s = options.preflight_timeout_s

    async def facts(node: Examined) -> dict[str, Any]:
        number = nodes.index(node)
        uses = ports[number].by_use if ports else {}
        answer: dict[str, Any] = await node.ask(
            "facts",
            ports={use: (numbers[0], numbers[-1]) for use, numbers in uses.items()},
            held=ports[number].between_nodes if ports else [],
            inputs=list(needs.inputs),
            hub_models=list(needs.hub_models),
            plugins=list(needs.plugins),
            towards=nodes[0].address or ANY_ADDRESS,
            within_s=within_s,
        )
        return answer if node.address is None else answer | {"address": node.address}

    known, problems = await of_each(nodes, facts)
    if problems:
        return [], problems
    folders = list(needs.shared)
    unwritten = await nodes[0].ask("write", folders=folders, token=token, within_s=within_s)
    problems = [
        LaunchProblem(
            node=nodes[0].host,
            what=f"{needs.shared[folder]}: {error}",
            do=f"name a folder that can be written with {needs.shared[folder]}",
        )
        for folder, error in unwritten.items()
    ]
    folders = [folder for folder in folders if folder not in unwritten]
    peers = [(node["address"], port) for node in known for port in node["held"]]

    async def look(node: Examined) -> Found:
        seen = await node.ask("look", folders=folders, token=token, peers=peers, within_s=within_s)
        skew_s = await _skew(node, within_s)
        return Found(node=node.host, facts=known[nodes.index(node)], skew_s=skew_s, **seen)

    found, mute = await of_each(nodes, look)
    return found, problems + (mute or problems_of(found, needs, options))


async def of_each(
    nodes: Sequence[NodeT], work: Callable[[NodeT], Awaitable[T]]
) -> tuple[list[T], list[LaunchProblem]]:
    """Does the same for all nodes at once: the results, and who failed."""
    results = await asyncio.gather(*map(work, nodes), return_exceptions=True)
    done, problems = [], []
    for node, result in zip(nodes, results, strict=True):
        if isinstance(result, ComponentError):
            problems.append(LaunchProblem(node=node.host, what=str(result), do=node.how_to_look()))
        elif isinstance(result, BaseException):
            raise result
        else:
            done.append(result)
    return done, problems


async def _skew(node: Examined, within_s: float) -> float:
    """How far its clock is from the time within which it must have looked at it."""
    before = time.time()
    there = float((await node.ask("time", within_s=within_s))["time"])
    return min(there - before, 0.0) or max(there - time.time(), 0.0)

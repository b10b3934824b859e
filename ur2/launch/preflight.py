"""From what the nodes found to one table of what is wrong, where, and what to do."""

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from ur2.launch.options import LaunchOptions, PreflightOptions

GIB = 1 << 30
EVERYWHERE = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchProblem:
    """One thing that is wrong."""

    node: str
    what: str
    do: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The findings of one node."""

    node: str
    facts: Mapping[str, Any]
    """The answer of `NodeChecks.facts`."""
    unseen: Sequence[str] = ()
    """Shared folders whose probe file it does not see."""
    unreached: Sequence[str] = ()
    """host:port of other nodes that it does not reach."""
    skew_s: float = 0.0
    """Its clock ahead of the checking one's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """The demands of a run on its nodes."""

    inputs: Mapping[str, str]
    """Option by path of what the run reads, where it is to be there."""
    shared: Mapping[str, str]
    """Option by folder of what all nodes read and write."""
    hub_models: Sequence[str]
    num_gpus: int
    plugins: Sequence[str] = ()
    """Packages of the user's that the run imports."""


def problems_of(
    found: Sequence[Found], needs: Needs, options: PreflightOptions
) -> list[LaunchProblem]:
    """Everything that is wrong; the first node is the head, with which the others are compared."""
    return [
        *_of_ports(found),
        *_of_network(found, options),
        *_of_versions(found),
        *_of_plugins(found),
        *_of_machines(found, needs, options),
        *_of_paths(found, needs),
        *_of_models(found, needs),
    ]


def _of_ports(found: Sequence[Found]) -> Iterator[LaunchProblem]:
    for node in found:
        for use, taken in node.facts["taken"].items():
            if taken:
                more = f" and {len(taken) - 3} more" if len(taken) > 3 else ""
                yield LaunchProblem(
                    node=node.node,
                    what=f"port {', '.join(taken[:3])}{more} is taken (ray's {use})",
                    do="end what holds it, or choose others with launch."
                    + ("dashboard_port" if use == "dashboard" else "ports"),
                )


def _of_network(found: Sequence[Found], options: PreflightOptions) -> Iterator[LaunchProblem]:
    do = "open the ports above 1023 between the nodes"
    if isinstance(options, LaunchOptions):
        do = (
            "open launch.ports and those above 32767 between the nodes, or name the head's other "
            "address with launch.head_address"
        )
    for node in found:
        if node.unreached:
            yield LaunchProblem(
                node=node.node,
                what=f"does not reach {', '.join(node.unreached)}",
                do=do,
            )


def _of_versions(found: Sequence[Found]) -> Iterator[LaunchProblem]:
    def versions(node: Found) -> dict[str, Hashable]:
        facts = node.facts
        return {"python": facts["python"], **facts["packages"], "ur2": facts["code"]}

    for name, node, value, head in _different(found, versions):
        fix = (
            "bring both to the same commit, or use one checkout on a shared folder"
            if name == "ur2"
            else "run `bash scripts/setup.sh` there, or use one .venv on a shared folder"
        )
        yield LaunchProblem(node=node, what=f"{name} is {value}, on the head {head}", do=fix)


def _of_plugins(found: Sequence[Found]) -> Iterator[LaunchProblem]:
    for name, node, value, head in _different(found, lambda node: node.facts["plugins"]):
        yield LaunchProblem(
            node=node,
            what=f"your package {name} is {value}, on the head {head}",
            do="bring both to the same files, or put it on a shared folder and on PYTHONPATH",
        )


def _of_machines(
    found: Sequence[Found], needs: Needs, options: PreflightOptions
) -> Iterator[LaunchProblem]:
    with_gpus = [node for node in found if node.facts["gpus"]]  # a head may have none
    for node in with_gpus[1:]:
        if _gpus(node) != _gpus(with_gpus[0]):
            yield LaunchProblem(
                node=node.node,
                what=f"GPUs: {', '.join(_gpus(node))}; "
                f"on {with_gpus[0].node}: {', '.join(_gpus(with_gpus[0]))}",
                do="use nodes of one kind, with one driver",
            )
    total = sum(len(node.facts["gpus"]) for node in found)
    if total < needs.num_gpus:
        yield LaunchProblem(
            node=EVERYWHERE,
            what=f"the run wants {needs.num_gpus} GPUs and the nodes have {total}",
            do="add nodes, or choose another cluster=...",
        )
    for node in found:
        size_gib = node.facts["shared_memory_bytes"] / GIB
        if size_gib < options.min_shared_memory_gib:
            yield LaunchProblem(
                node=node.node,
                what=f"/dev/shm has {size_gib:.2f} GiB of {options.min_shared_memory_gib:g} wanted",
                do="start its container with a larger --shm-size, or lower "
                f"{options.prefix}min_shared_memory_gib",
            )
        if abs(node.skew_s) > options.max_clock_skew_s:
            yield LaunchProblem(
                node=node.node,
                what=f"its clock is {node.skew_s:+.1f} s from the checking one's",
                do="synchronise the clocks (chronyc makestep), or raise "
                f"{options.prefix}max_clock_skew_s",
            )


def _of_paths(found: Sequence[Found], needs: Needs) -> Iterator[LaunchProblem]:
    head = found[0].facts["inputs"]
    for node in found:
        for path, seen in node.facts["inputs"].items():
            if seen is None:
                what = f"{needs.inputs[path]}: '{path}' does not exist there"
            elif head[path] is not None and seen != head[path]:
                what = f"{needs.inputs[path]}: '{path}' is not what it is on the head"
            else:
                continue
            yield LaunchProblem(
                node=node.node, what=what, do="put it on a shared folder, or copy it there"
            )
        for folder in node.unseen:
            yield LaunchProblem(
                node=node.node,
                what=f"{needs.shared[folder]}: '{folder}' is not the head's folder",
                do=f"name a folder that all nodes share with {needs.shared[folder]}",
            )


def _of_models(found: Sequence[Found], needs: Needs) -> Iterator[LaunchProblem]:
    for node in found:
        for model in needs.hub_models:
            if node.facts["hub_offline"] and not node.facts["hub"][model]:
                yield LaunchProblem(
                    node=node.node,
                    what=f"'{model}' is not in {node.facts['hub_home']}, and HF_HUB_OFFLINE is set",
                    do="fetch it there with `hf download`, or point HF_HOME to a shared folder",
                )


def _gpus(node: Found) -> list[str]:
    """How many of which kind."""
    return [f"{number} x {kind}" for kind, number in Counter(node.facts["gpus"]).items()]


def _different(found: Sequence[Found], look: Any) -> Iterator[tuple[str, str, Hashable, Hashable]]:
    """Name, node, its value and the head's, for all that differ."""
    head = look(found[0])
    for node in found[1:]:
        for name, value in look(node).items():
            if value != head[name]:
                yield name, node.node, value or "absent", head[name] or "absent"


def nodes_table(found: Sequence[Found]) -> Table:
    """A table of the nodes and their facts."""
    table = Table(
        "node", "address", "CPUs", "memory", "/dev/shm", "GPUs", "HF cache", title="nodes"
    )
    for node in found:
        facts = node.facts
        cached = [name for name, here in facts["hub"].items() if here]
        table.add_row(
            node.node,
            facts["address"],
            str(facts["cpus"]),
            f"{facts['memory_bytes'] / GIB:.0f} GiB",
            f"{facts['shared_memory_bytes'] / GIB:.0f} GiB",
            "\n".join(_gpus(node)) or "none",
            facts["hub_home"] + (f" (has {', '.join(cached)})" if cached else ""),
        )
    return table


def problems_table(problems: Sequence[LaunchProblem]) -> Table:
    """A table of what is wrong, where, and what to do."""
    table = Table("node", "what is wrong", "what to do", title="preflight", show_lines=True)
    for problem in problems:
        table.add_row(problem.node, problem.what, problem.do)
    return table

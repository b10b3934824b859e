"""Places of policy ranks and engines on the nodes of a cluster.

    disaggregated  │ rank 0 │ rank 1 │ engine 0, two GPUs │
    colocated      │ rank 0   rank 1 │ rank 2      rank 3 │
                   │ engine 0, asleep while they compute,  │
                   │          │ engine 1, likewise         │

Pure planning; `ray_cluster` carries it out. What is reserved as one, a bundle, lies on one node, so
that an engine's GPUs do. Ranks are packed on as few nodes as possible, neighbours in order.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ur2.trainer.options import ClusterOptions

BY_ITSELF = sys.maxsize
"""Room on a node for what needs nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A machine of the cluster."""

    id: str
    address: str
    gpus: int
    cpus: float

    def __str__(self) -> str:
        return f"{self.address} ({self.gpus} GPUs, {self.cpus:g} CPUs)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """The ranks and engines that a run wants to place."""

    options: ClusterOptions
    num_ranks: int = 0
    num_engines: int = 0

    @property
    def shares_gpus(self) -> bool:
        """Whether engines run on the ranks' GPUs."""
        options = self.options
        colocated = options.placement == "colocated" and options.num_gpus_per_rollout_worker > 0
        return colocated and self.num_ranks > 0 and self.num_engines > 0

    @property
    def num_gpus(self) -> int:
        """In all."""
        engines = 0 if self.shares_gpus else self.num_engines
        return (
            self.num_ranks * self.options.num_gpus_per_policy_rank
            + engines * self.options.num_gpus_per_rollout_worker
        )

    def __str__(self) -> str:
        options, parts = self.options, []
        if self.num_ranks:
            need = _needs(options.num_gpus_per_policy_rank, options.num_cpus_per_policy_rank)
            parts.append(f"{self.num_ranks} policy rank(s) of {need}")
        if self.num_engines:
            need = _needs(options.num_gpus_per_rollout_worker, options.num_cpus_per_rollout_worker)
            where = ", on the GPUs of the ranks" if self.shares_gpus else ", on one node each"
            parts.append(f"{self.num_engines} engine(s) of {need}{where}")
        return " and ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """Resources that are reserved as one, on one node."""

    node: Machine
    gpus: int
    cpus: float
    ranks: tuple[int, ...] = ()
    engine: int | None = None


@dataclass(frozen=True, slots=True)
class _Kind:
    """Bundles that are alike, before each has its node."""

    number: int
    gpus: int
    cpus: float
    ranks_each: int = 0
    has_engine: bool = False


def placement_problems(
    options: ClusterOptions, *, num_ranks: int, num_engines: int
) -> Iterator[str]:
    """Demands that no cluster can meet."""
    rank, engine = options.num_gpus_per_policy_rank, options.num_gpus_per_rollout_worker
    if options.placement != "colocated":
        return
    if num_ranks * rank != num_engines * engine:
        yield (
            "cluster.placement=colocated shares all GPUs: policy.num_ranks x "
            f"cluster.num_gpus_per_policy_rank = {num_ranks} x {rank} must equal "
            "rollout.num_workers x cluster.num_gpus_per_rollout_worker = "
            f"{num_engines} x {engine}"
        )
    elif engine and num_ranks % num_engines:
        yield (
            f"cluster.placement=colocated: {num_ranks} policy ranks do not divide by "
            f"{num_engines} engines (rollout.num_workers)"
        )


def plan(demand: Demand, nodes: Sequence[Machine]) -> tuple[Bundle, ...] | None:
    """Places everything, or None where it does not fit; of equal nodes earlier ones are preferred.

    Ranks choose first. Where the engines do not fit into what they leave, engines do.
    """
    kinds = _kinds(demand)
    for order in (kinds, kinds[::-1]):
        free = {node.id: node for node in nodes}
        placed = {kind: _pack(kind, free) for kind in order}
        if all(len(chosen) == kind.number for kind, chosen in placed.items()):
            by_id = {node.id: node for node in nodes}
            return tuple(
                Bundle(
                    node=by_id[node],
                    gpus=kind.gpus,
                    cpus=kind.cpus,
                    ranks=tuple(range(i * kind.ranks_each, (i + 1) * kind.ranks_each)),
                    engine=i if kind.has_engine else None,
                )
                for kind in kinds
                for i, node in enumerate(placed[kind])
            )
    return None


def _kinds(demand: Demand) -> list[_Kind]:
    options = demand.options
    rank_cpus, engine_cpus = options.num_cpus_per_policy_rank, options.num_cpus_per_rollout_worker
    if demand.shares_gpus:
        each = demand.num_ranks // demand.num_engines
        cpus = each * rank_cpus + engine_cpus
        gpus = options.num_gpus_per_rollout_worker
        return [_Kind(demand.num_engines, gpus, cpus, ranks_each=each, has_engine=True)]
    return [
        _Kind(demand.num_ranks, options.num_gpus_per_policy_rank, rank_cpus, ranks_each=1),
        _Kind(
            demand.num_engines, options.num_gpus_per_rollout_worker, engine_cpus, has_engine=True
        ),
    ]


def _pack(kind: _Kind, free: dict[str, Machine]) -> list[str]:
    """The node of each bundle, as few as possible; takes from `free`, and less where it is full."""
    chosen: list[str] = []
    while (left := kind.number - len(chosen)) > 0:
        rooms = {node.id: _room(node, kind) for node in free.values()}
        enough = [id_ for id_, room in rooms.items() if room >= left]
        if not any(rooms.values()):
            break
        id_ = min(enough, key=rooms.__getitem__) if enough else max(rooms, key=rooms.__getitem__)
        count = min(left, rooms[id_])
        node = free[id_]
        free[id_] = Machine(
            id=id_,
            address=node.address,
            gpus=node.gpus - count * kind.gpus,
            cpus=node.cpus - count * kind.cpus,
        )
        chosen += [id_] * count
    return chosen


def _room(node: Machine, kind: _Kind) -> int:
    """How many bundles of a kind fit."""
    by_gpus = node.gpus // kind.gpus if kind.gpus else BY_ITSELF
    by_cpus = int(node.cpus // kind.cpus) if kind.cpus else BY_ITSELF
    return min(by_gpus, by_cpus)


def _needs(gpus: int, cpus: float) -> str:
    needs = [
        f"{number:g} {what}" for number, what in ((gpus, "GPU(s)"), (cpus, "CPU(s)")) if number
    ]
    return " and ".join(needs) or "no GPU"

"""Which port is for what, and the commands that start ray on them."""

from collections.abc import Sequence
from dataclasses import dataclass

from ur2.launch.options import LaunchOptions

ONE_EACH = (
    "node-manager-port",
    "object-manager-port",
    "runtime-env-agent-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "metrics-export-port",
)
"""`ray start`'s options that take one port on every node, in the order of their ports."""
NUM_OWN_PORTS = 10
"""Before those of the workers; the last two are spare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The ports of one node: `first` is the head's address, the others follow."""

    first: int
    num_workers: int
    dashboard: int | None = None
    """On the head only."""

    @property
    def by_use(self) -> dict[str, range]:
        """The ports by what they are for."""
        uses = {
            use.removesuffix("-port").replace("-", " "): range(port, port + 1)
            for port, use in enumerate(ONE_EACH, self.first + 1)
        }
        workers = self.first + NUM_OWN_PORTS
        uses["workers"] = range(workers, workers + self.num_workers)
        if self.dashboard is not None:
            client = self.first + len(ONE_EACH) + 1
            uses["address"] = range(self.first, self.first + 1)
            uses["client server"] = range(client, client + 1)
            uses["dashboard"] = range(self.dashboard, self.dashboard + 1)
        return uses

    @property
    def between_nodes(self) -> list[int]:
        """Those that other nodes must reach."""
        uses = ("address", "node manager", "object manager")
        return [self.by_use[use].start for use in uses if use in self.by_use]


def ports_of(options: LaunchOptions, number: int) -> Ports:
    """The ports of a node, by its place in `hosts`."""
    return Ports(
        first=options.first_port(number),
        num_workers=options.num_worker_ports,
        dashboard=options.dashboard_port if number == 0 else None,
    )


def ray_start(
    ports: Ports, address: str, head: str, temp_dir: str | None, object_store_bytes: int | None
) -> Sequence[str]:
    """The arguments of Python that start ray on a node at `address`.

    Args:
        ports: of the node; those with a dashboard make it the head.
        address: of the node.
        head: host:port of the head.
        temp_dir: ray's folder.
        object_store_bytes: size of ray's object store.
    """
    workers = ports.by_use["workers"]
    words = ["-m", "ray.scripts.scripts", "start", f"--node-ip-address={address}"]
    words += [f"--{use}={port}" for port, use in enumerate(ONE_EACH, ports.first + 1)]
    words += [f"--min-worker-port={workers.start}", f"--max-worker-port={workers.stop - 1}"]
    if ports.dashboard is None:
        words += [f"--address={head}"]
    else:
        client = ports.by_use["client server"].start
        words += ["--head", f"--port={ports.first}", f"--ray-client-server-port={client}"]
        words += [f"--dashboard-port={ports.dashboard}", "--disable-usage-stats"]
    if temp_dir is not None:
        words += [f"--temp-dir={temp_dir}"]
    if object_store_bytes is not None:
        words += [f"--object-store-memory={object_store_bytes}"]
    return words

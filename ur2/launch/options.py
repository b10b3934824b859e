"""Options of a launch and of a ray job; on a command line they begin with `launch.` or `job.`."""

from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from ur2.options import Options


class PreflightOptions(Options):
    """The demands on nodes before a run starts on them."""

    prefix: ClassVar[str] = ""
    """The prefix of these keys on a command line."""
    python: str = ".venv/bin/python"
    """Python on the nodes, from this folder: a path, or a container's command, as in
    'apptainer exec --nv ur2.sif python'."""
    env: tuple[str, ...] = ("HF_*", "NCCL_*", "GLOO_*", "VLLM_*", "WANDB_*", "OMP_NUM_THREADS")
    """Patterns of this shell's variables that the nodes get."""
    shared: tuple[str, ...] = ()
    """Further folders that all nodes must share; those of the run are known."""
    min_shared_memory_gib: float = Field(1.0, ge=0)
    """Least size of /dev/shm."""
    max_clock_skew_s: float = Field(2.0, gt=0)
    """Longest time by which a node's clock may differ from the checking one's."""
    preflight_timeout_s: float = Field(120.0, gt=0)
    """Longest wait for one answer of a node before anything is started."""
    checkpoint_timeout_s: float = Field(600.0, gt=0)
    """Longest wait for a stopped run to write its checkpoint; then it is killed."""


class JobOptions(PreflightOptions):
    """A run on a ray cluster that is up already."""

    prefix = "job."
    address: str
    """The address of the cluster's dashboard, as in http://head:8265."""
    root: str | None = None
    """This folder's path on the cluster's nodes; by default as here."""
    upload: bool = False
    """Send this folder, without what git ignores, instead of using the cluster's; then `python` is
    the cluster's own, and inputs need absolute paths."""

    @field_validator("address")
    @classmethod
    def _address_is_a_url(cls, address: str) -> str:
        if "://" not in address:
            raise ValueError("write the dashboard's URL, as in http://head:8265")
        return address


class LaunchOptions(PreflightOptions):
    """Which nodes, how they are reached, and the ports of the ray that is started on them."""

    prefix = "launch."
    hosts: tuple[str, ...]
    """The nodes; the first is the head, where training starts."""
    through: Literal["ssh", "srun"] = "ssh"
    """How commands get to a node."""
    ssh: str = "ssh -o BatchMode=yes -o ConnectTimeout=20 -o ServerAliveInterval=15"
    """The ssh command, without host."""
    srun: str = "srun --nodes=1 --ntasks=1 --overlap --mem=0 --cpu-bind=none"
    """The srun command, without node."""
    ports: tuple[int, ...] = (6379,)
    """First port of ray on each node, which takes 10 + num_worker_ports from there; the head's
    first is its address. One number serves all nodes."""
    num_worker_ports: int = Field(1000, ge=1)
    """Ports of ray's worker processes, one each."""
    dashboard_port: int = Field(8265, ge=1024, le=65535)
    """The port of ray's dashboard, on the head only."""
    head_address: str | None = None
    """The head's address as the other nodes see it, where it has several."""
    temp_dir: str | None = None
    """Ray's folder on each node; by default /tmp/ray, which on shared nodes may be another's."""
    start_timeout_s: float = Field(120.0, gt=0)
    """Longest wait for ray to start on a node."""

    @model_validator(mode="after")
    def _nodes_and_ports_fit(self) -> Self:
        if not self.hosts or not all(host.strip() for host in self.hosts):
            raise ValueError("hosts names no node")
        if len(self.ports) == 1 and len(set(self.hosts)) < len(self.hosts):
            raise ValueError("hosts names a node twice, and its ports would clash")
        if len(self.ports) not in (1, len(self.hosts)):
            raise ValueError(f"{len(self.ports)} ports, {len(self.hosts)} hosts: one, or one each")
        last = max(self.ports) + 9 + self.num_worker_ports
        if min(self.ports) < 1024 or last > 65535:
            raise ValueError("ports and those after them must lie within 1024 and 65535")
        return self

    def first_port(self, number: int) -> int:
        """First port of ray on a node, by its place in `hosts`."""
        return self.ports[number if len(self.ports) > 1 else 0]

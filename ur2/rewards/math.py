"""Equivalence of mathematical answers, by math-verify in processes that may hang or die."""

import asyncio
import atexit
import functools
import json
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from ur2.errors import ComponentError
from ur2.rewards.math_compare import PercentRule, decide
from ur2.rewards.math_text import canonical

TIMEOUT_S, CPU_S = 5.0, 0.4
"""Seconds on the clock and of the processor for one comparison: the same wherever answers are
compared, so that training and evaluation agree."""
START_TIMEOUT_S = 60.0
"""Longest wait for the libraries to be imported; not part of a comparison's deadline."""
GRACE_S = 5.0
"""A worker ends itself at its deadline; this much later it is given up unseen."""


def equivalent(
    prediction: str, gold: str, *, timeout_s: float = TIMEOUT_S, percent: PercentRule = "either"
) -> bool:
    r"""Whether two LaTeX (or plain) expressions have the same value.

    A comparison that is not finished in time, or whose process dies, counts as not equivalent; see
    `compare`, which tells it apart.

    Args:
        prediction: the content of the final answer, without `\boxed{}`.
        gold: the accepted answer.
        timeout_s: deadline of the comparison.
        percent: what a percentage equals.

    Raises:
        ComponentError: the comparing process does not start.
    """
    return compare(prediction, gold, timeout_s=timeout_s, percent=percent) is True


def compare(
    prediction: str,
    gold: str,
    *,
    timeout_s: float = TIMEOUT_S,
    cpu_s: float = CPU_S,
    percent: PercentRule = "either",
) -> bool | None:
    """As `equivalent`; None where the comparison went over a limit, or its process died.

    Args:
        prediction: as in `equivalent`.
        gold: as in `equivalent`.
        timeout_s: seconds on the clock.
        cpu_s: processor seconds of this comparison, which a busy machine does not use up.
        percent: what a percentage equals.
    """
    said, wanted = canonical(prediction), canonical(gold)
    verdict = decide(said, wanted, percent)
    if verdict is None:
        verdict = _VERIFIER.equal(said, wanted, timeout_s, cpu_s, percent)
    return verdict


async def equivalent_to_any(
    prediction: str,
    golds: Sequence[str],
    *,
    timeout_s: float = TIMEOUT_S,
    cpu_s: float = CPU_S,
    percent: PercentRule = "either",
) -> bool | None:
    """Whether one of several golds is equivalent; waits without blocking the event loop.

    None where none is known to be, and a comparison came to nothing.

    Args:
        prediction: as in `equivalent`.
        golds: accepted answers.
        timeout_s: as in `compare`.
        cpu_s: as in `compare`.
        percent: what a percentage equals.

    Raises:
        ComponentError: the comparing process does not start.
    """
    said = canonical(prediction)
    open_golds = []
    for wanted in map(canonical, golds):
        verdict = decide(said, wanted, percent)
        if verdict:
            return True
        if verdict is None:
            open_golds.append(wanted)
    loop = asyncio.get_running_loop()
    verdict = False
    for wanted in open_golds:
        call = functools.partial(_VERIFIER.equal, said, wanted, timeout_s, cpu_s, percent)
        found = await loop.run_in_executor(_VERIFIER.threads, call)
        if found:
            return True
        verdict = None if found is None else verdict
    return verdict


class _Verifier:
    """Worker processes: started on first use, replaced when they died; thread-safe."""

    def __init__(self, size: int) -> None:
        self.threads = ThreadPoolExecutor(size, thread_name_prefix="ur2-math")
        """One per worker, so that a worker is idle whenever a thread asks for one."""
        self._idle: queue.Queue[socket.socket | None] = queue.Queue()
        for _ in range(size):
            self._idle.put(None)
        self._lock = threading.Lock()
        self._parent: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def equal(
        self, prediction: str, gold: str, timeout_s: float, cpu_s: float, percent: str
    ) -> bool | None:
        """Asks a worker; None where it does not answer."""
        fields = {
            "prediction": prediction,
            "gold": gold,
            "timeout_s": timeout_s,
            "cpu_s": cpu_s,
            "percent": percent,
        }
        request = json.dumps(fields).encode() + b"\n"
        worker = self._idle.get()
        reply = None
        try:
            for _ in range(2):  # once more where the worker died of something else than its limits
                worker = self._connected(worker)
                begun, reply = _ask(worker, request, timeout_s + GRACE_S)
                if reply is not None:
                    break
                worker.close()
                worker = None
                if begun:
                    break
        finally:
            self._idle.put(worker)
        return None if reply is None else bool(json.loads(reply)["equal"])

    def close(self) -> None:
        """Ends the processes; the next comparison starts them again."""
        for _ in range(self._idle.qsize()):
            if (worker := self._idle.get()) is not None:
                worker.close()
            self._idle.put(None)
        with self._lock:
            self._end()

    def _connected(self, worker: socket.socket | None) -> socket.socket:
        """The worker, or a fresh one where it died while it was idle."""
        if worker is not None:
            if not _has_ended(worker):
                return worker
            worker.close()
        mine, its = socket.socketpair()
        with its, self._lock:
            try:
                socket.send_fds(self._started(), [b"w"], [its.fileno()])
            except OSError:  # the parent died: once more with another
                self._end()
                socket.send_fds(self._started(), [b"w"], [its.fileno()])
        return mine

    def _started(self) -> socket.socket:
        if self._control is None:
            mine, its = socket.socketpair()
            with its:
                self._parent = subprocess.Popen(
                    [sys.executable, "-m", "ur2.rewards.math_worker", str(its.fileno())],
                    pass_fds=[its.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                )
            self._control = mine
            if _read_line(mine, START_TIMEOUT_S) is None:
                self._end()
                raise ComponentError(
                    "the process that compares mathematical answers does not start; "
                    '`python -c "import ur2.rewards.math_worker"` shows why'
                )
        return self._control

    def _end(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._parent is not None:
            self._parent.kill()
            self._parent.wait()
        self._control = self._parent = None


def _ask(worker: socket.socket, request: bytes, timeout_s: float) -> tuple[bool, bytes | None]:
    """Whether the worker began the comparison, and its answer if it gave one."""
    worker.settimeout(timeout_s)
    try:
        worker.sendall(request)
        begun = bool(worker.recv(1))
    except OSError:
        return False, None
    return begun, _read_line(worker, timeout_s) if begun else None


def _read_line(connection: socket.socket, timeout_s: float) -> bytes | None:
    """The next line; None where the other end closes or is silent for too long."""
    connection.settimeout(timeout_s)
    received = b""
    try:
        while not received.endswith(b"\n"):
            chunk = connection.recv(65536)
            if not chunk:
                return None
            received += chunk
    except OSError:
        return None
    return received


def _has_ended(worker: socket.socket) -> bool:
    """Whether the other end is closed; an idle worker says nothing."""
    worker.settimeout(0)
    try:
        return not worker.recv(1)
    except BlockingIOError:
        return False
    except OSError:
        return True


_VERIFIER = _Verifier(max(2, min(8, os.cpu_count() or 2)))
atexit.register(_VERIFIER.close)

"""Equivalence of mathematical answers, by math-verify in a process that can be killed."""

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
from typing import IO, cast

from ur2.errors import ComponentError

START_TIMEOUT_S = 60.0
"""Longest wait for the worker to import its libraries; not part of a comparison's deadline."""
MAX_CHARS = 4096
"""A longer expression is equivalent only to itself."""


def equivalent(prediction: str, gold: str, *, timeout_s: float = 5.0) -> bool:
    r"""Whether two LaTeX (or plain) expressions have the same value.

    A comparison that is not finished in time, or whose process dies, counts as not equivalent.

    Args:
        prediction: the content of the final answer, without `\boxed{}`.
        gold: the accepted answer.
        timeout_s: deadline of the comparison.

    Raises:
        ComponentError: the comparing process does not start.
    """
    said, wanted = _canonical(prediction), _canonical(gold)
    if not said or not wanted or said == wanted:
        return bool(said) and said == wanted
    if max(len(said), len(wanted)) > MAX_CHARS:
        return False
    return _VERIFIER.equal(said, wanted, timeout_s)


class _Verifier:
    """One worker process, started on first use and again after it was killed; thread-safe."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""
        self._lock = threading.Lock()

    def equal(self, prediction: str, gold: str, timeout_s: float) -> bool:
        request = json.dumps({"prediction": prediction, "gold": gold}).encode() + b"\n"
        with self._lock:
            reply = self._ask(self._started(), request, timeout_s)
        return reply is not None and bool(json.loads(reply)["equal"])

    def close(self) -> None:
        """Ends the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self.close()
        if self._process is None:
            self._unread = b""
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ur2.rewards.math_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            if self._read_line(self._process, START_TIMEOUT_S) is None:
                self.close()
                raise ComponentError(
                    "the process that compares mathematical answers does not start; "
                    "`python -m ur2.rewards.math_worker` shows why"
                )
        return self._process

    def _ask(
        self, process: subprocess.Popen[bytes], request: bytes, timeout_s: float
    ) -> bytes | None:
        """The reply, or None after killing a process that gave none in time."""
        try:
            os.write(cast(IO[bytes], process.stdin).fileno(), request)
            reply = self._read_line(process, timeout_s)
        except BrokenPipeError:
            reply = None
        if reply is None:
            self.close()
        return reply

    def _read_line(self, process: subprocess.Popen[bytes], timeout_s: float) -> bytes | None:
        deadline = time.monotonic() + timeout_s
        pipe = cast(IO[bytes], process.stdout).fileno()
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        while b"\n" not in self._unread:
            wait_s = deadline - time.monotonic()
            if wait_s <= 0 or not poll.poll(1000 * wait_s):
                return None
            chunk = os.read(pipe, 65536)
            if not chunk:
                return None
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line


def _canonical(expression: str) -> str:
    return " ".join(expression.strip().strip("$").split())


_VERIFIER = _Verifier()
atexit.register(_VERIFIER.close)

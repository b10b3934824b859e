"""The node's side of a launch: `python -m ur2.launch.agent`, one JSON request per line of stdin.

It lives as long as its stdin is open. Whatever ends the launcher, the agent ends what it started.
"""

import contextlib
import ctypes
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any, NamedTuple

import psutil

from ur2.launch.checks import NodeChecks, reaches
from ur2.trainer.cluster.leftovers import remove_leftovers

REPLY = "ur2-agent "
"""Begins the lines that are answers; login scripts may print others."""
MARK = "UR2_LAUNCH"
"""The variable by which a node knows the processes of its launch's run."""
PR_SET_CHILD_SUBREAPER = 36
END_TIMEOUT_S = 10.0
POLL_S = 0.1


class Starting(NamedTuple):
    """A command that leaves servers behind, until it has done so."""

    process: subprocess.Popen[bytes]
    output: IO[bytes]
    deadline: float


class Agent:
    """Answers requests until it is told to stop, its input ends, or its command does."""

    def __init__(self, requests: "queue.SimpleQueue[str | None]") -> None:
        self.requests = requests
        self.checks = NodeChecks()
        self.command: subprocess.Popen[bytes] | None = None
        self.starting: Starting | None = None
        self.mark = ""
        self.patience_s = 0.0
        self.quiet = False
        self.outlive: dict[str, Any] = {}

    def serve(self) -> int:
        """Returns the exit code of the command that was run, or 0."""
        try:
            while self.command is None or self.command.poll() is None:
                self._look_at_start()
                try:
                    line = self.requests.get(timeout=POLL_S)
                except queue.Empty:
                    continue
                if line is None:
                    self._launcher_is_gone()
                    break
                request = json.loads(line)
                if request["do"] == "stop":
                    break
                self._do(**request)
        finally:
            self.checks.close()
            code = self._end_command()
            end_descendants()
            remove_leftovers()
        return code

    def _do(self, do: str, **request: Any) -> None:
        owner = self.checks if do in ("facts", "write", "look", "time") else self
        try:
            answer = getattr(owner, do)(**request)
        except OSError as error:
            self._reply(error=f"{do}: {error}")
        else:
            if do != "start":  # answered when it is done
                self._reply(answer=answer)

    def _reply(self, **reply: Any) -> None:
        if not self.quiet:
            sys.stdout.write(f"{REPLY}{json.dumps(reply)}\n")
            sys.stdout.flush()

    def hello(self, mark: str, env: Mapping[str, str], patience_s: float, quiet: bool) -> None:
        """Sets what all that follows needs.

        Args:
            mark: of what this agent starts.
            env: variables for it.
            patience_s: how long a command may take to end when asked to.
            quiet: stdout is the command's, and requests are not answered.
        """
        os.environ.update(env)
        self.mark, self.patience_s, self.quiet = mark, patience_s, quiet

    def start(self, arguments: Sequence[str], outlive: dict[str, Any], timeout_s: float) -> None:
        """Runs a command of Python that leaves servers behind, which this agent ends.

        Args:
            arguments: of Python.
            outlive: what a node waits for when its launcher is gone: the processes with a `mark`,
                or that nothing accepts connections at an `address`.
            timeout_s: longest wait for the command.
        """
        self.checks.close()
        end_descendants()  # of an earlier attempt
        self.outlive = outlive
        output = tempfile.TemporaryFile()  # noqa: SIM115
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=self._env(),
            start_new_session=True,
        )
        self.starting = Starting(process, output, time.monotonic() + timeout_s)

    def run(self, arguments: Sequence[str]) -> None:
        """Runs a command of Python with this agent's own output; its end is the agent's."""
        self.command = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            env=self._env(),
            start_new_session=True,
        )

    def signal(self, name: str) -> None:
        """Sends a signal to the command."""
        if self.command is not None and self.command.poll() is None:
            self.command.send_signal(signal.Signals[name])

    def _look_at_start(self) -> None:
        """Answers the request to start something when that is done, or late."""
        if self.starting is None:
            return
        process, output, deadline = self.starting
        if process.poll() is None:
            if time.monotonic() < deadline:
                return
            process.kill()
            process.wait()
        with output:
            output.seek(0)
            said = output.read().decode(errors="replace")
        self.starting = None
        self._reply(answer={"code": process.returncode, "output": said})

    def _env(self) -> dict[str, str]:
        return {**os.environ, MARK: self.mark, "PYTHONUNBUFFERED": "1"}

    def _launcher_is_gone(self) -> None:
        """Lets the training on the head write its checkpoint before ray ends under it."""
        deadline = time.monotonic() + self.patience_s
        while time.monotonic() < deadline and (
            ("mark" in self.outlive and is_marked(self.outlive["mark"]))
            or ("address" in self.outlive and reaches(*self.outlive["address"]))
        ):
            time.sleep(1)

    def _end_command(self) -> int:
        """Asks the command to end if it still runs, and insists when it does not."""
        if self.command is None:
            return 0
        if self.command.poll() is None:
            self.command.send_signal(signal.SIGTERM)
        try:
            code = self.command.wait(self.patience_s)
        except subprocess.TimeoutExpired:
            self.command.kill()
            code = self.command.wait()
        return code if code >= 0 else 128 - code


def is_marked(mark: str) -> bool:
    """Whether a process runs here that an agent with this mark started."""
    return any(
        (process.info["environ"] or {}).get(MARK) == mark
        for process in psutil.process_iter(["environ"])
    )


def adopt_orphans() -> None:
    """Makes this process the parent of its descendants whose own parent dies."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_descendants() -> None:
    """Ends all that this process has started, however far down: politely, then for good."""
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL):
        processes = psutil.Process().children(recursive=True)
        for process in processes:
            _send(process, number)
        psutil.wait_procs(processes, timeout=END_TIMEOUT_S)


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def main() -> None:
    """Serves the launcher at the other end of stdin."""
    adopt_orphans()
    requests: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            requests.put(line)
        requests.put(None)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher forwards what the command shall get
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: requests.put(None))
    threading.Thread(target=read, daemon=True).start()
    code = Agent(requests).serve()
    sys.stdout.flush()
    os._exit(code)  # the reader may still wait for input


if __name__ == "__main__":
    main()

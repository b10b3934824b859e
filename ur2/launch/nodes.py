"""The launcher's side of a node: an agent there, reached by ssh or srun."""

import asyncio
import fnmatch
import json
import os
import shlex
from collections import deque
from collections.abc import Mapping
from typing import Any

from ur2.errors import ComponentError
from ur2.launch.agent import END_TIMEOUT_S, REPLY
from ur2.launch.options import LaunchOptions

HELLO_TIMEOUT_S = 120.0
MAX_LINE_BYTES = 1 << 24
NUM_LINES_KEPT = 20


class LaunchNode:
    """One node and its agent."""

    def __init__(self, host: str, words: list[str], *, shows_output: bool = False) -> None:
        """Nothing is started before `connect`.

        Args:
            host: its name, for messages.
            words: the command that starts the agent there.
            shows_output: the agent's output is the user's to see, and not read here.
        """
        self.host = host
        self.address: str | None = None
        self.words = words
        self.shows_output = shows_output
        self.process: asyncio.subprocess.Process | None = None
        self._errors: deque[str] = deque(maxlen=NUM_LINES_KEPT)
        self._reader: asyncio.Task[None] | None = None

    async def connect(self, mark: str, env: Mapping[str, str], patience_s: float) -> None:
        """Starts the agent, out of reach of the terminal's Ctrl-C."""
        output = None if self.shows_output else asyncio.subprocess.PIPE
        try:
            self.process = await asyncio.create_subprocess_exec(
                *self.words,
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
                limit=MAX_LINE_BYTES,
            )
        except OSError as error:
            raise ComponentError(f"'{self.words[0]}' cannot be run: {error}") from error
        if self.process.stderr is not None:
            self._reader = asyncio.create_task(self._read_errors(self.process.stderr))
        quiet = self.shows_output
        await self.tell("hello", mark=mark, env=env, patience_s=patience_s, quiet=quiet)
        if not quiet:
            await self.answer(HELLO_TIMEOUT_S)

    async def tell(self, do: str, **request: Any) -> None:
        """Sends a request; an agent that is gone is noticed by who waits for it."""
        assert self.process is not None
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, **request}).encode() + b"\n")
            await self.process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            pass

    async def answer(self, timeout_s: float) -> Any:
        """The answer to the oldest request that has none.

        Raises:
            ComponentError: none came, or it says what went wrong there.
        """
        assert self.process is not None
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(timeout_s):
                while line := (await self.process.stdout.readline()).decode(errors="replace"):
                    if REPLY in line:  # a login script's last line may have no end
                        break
                    self._errors.append(line.rstrip())
        except TimeoutError as error:
            raise ComponentError(f"no answer within {timeout_s:g} s{self._said()}") from error
        if not line:
            if self._reader is not None:
                await self._reader
            raise ComponentError(f"the connection ended{self._said()}")
        reply = json.loads(line.partition(REPLY)[2])
        if "error" in reply:
            raise ComponentError(reply["error"])
        return reply["answer"]

    async def ask(self, do: str, *, within_s: float, **request: Any) -> Any:
        """Sends a request and waits for its answer.

        Raises:
            ComponentError: see `answer`.
        """
        await self.tell(do, **request)
        return await self.answer(within_s)

    def how_to_look(self) -> str:
        """Advice to a person where no answer came."""
        return f"make this start there: {shlex.join(self.words)}"

    async def ended(self) -> int:
        """The exit code of the agent, or of what carried it."""
        assert self.process is not None
        return await self.process.wait()

    async def close(self, timeout_s: float = 3 * END_TIMEOUT_S, *, is_over: bool = True) -> None:
        """Lets the agent end what it started, then ends the connection.

        Args:
            timeout_s: longest wait for that.
            is_over: or it waits until what it is to outlive is gone.
        """
        if self.process is None:
            return
        if is_over:
            await self.tell("stop")
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            async with asyncio.timeout(timeout_s):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
        if self._reader is not None:
            await self._reader

    async def _read_errors(self, stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            self._errors.append(line.decode(errors="replace").rstrip())

    def _said(self) -> str:
        """The last errors that the connection printed."""
        lines = [line for line in self._errors if line]
        return f"; it said: {' / '.join(lines[-3:])}" if lines else ""


def agent_words(options: LaunchOptions, host: str, root: str) -> list[str]:
    """The command that starts an agent on a host, in the folder where this one runs."""
    line = f"cd {shlex.quote(root)} && exec {options.python} -m ur2.launch.agent"
    if options.through == "ssh":
        return [*shlex.split(options.ssh), host, line]
    # a step has one core unless it asks for more
    cores = os.environ.get("SLURM_CPUS_ON_NODE")
    wide = [f"--cpus-per-task={cores}"] if cores else []
    return [*shlex.split(options.srun), *wide, f"--nodelist={host}", "sh", "-c", line]


def passed_on(patterns: tuple[str, ...]) -> dict[str, str]:
    """This shell's variables that the nodes get."""
    return {
        name: value
        for name, value in os.environ.items()
        if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
    }

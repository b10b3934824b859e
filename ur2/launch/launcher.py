"""Checks the nodes, starts ray on them, trains, and ends everything whatever happens."""

import asyncio
import os
import secrets
import signal
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ur2.errors import EXIT_INTERRUPTED, ComponentError, InputError
from ur2.launch.agent import END_TIMEOUT_S
from ur2.launch.examine import examine, of_each
from ur2.launch.nodes import LaunchNode, agent_words, passed_on
from ur2.launch.options import LaunchOptions
from ur2.launch.ports import ports_of, ray_start
from ur2.launch.preflight import Found, Needs, nodes_table, problems_table
from ur2.trainer.interrupt import unless_stopped

LOST = 255
"""The exit code of ssh when it has lost the other side."""
FORWARDED = {signal.SIGINT: "SIGINT"}
"""Signals that the training gets as they are; SIGTERM stands for any other."""
KILLED = 128
"""Exit codes above are those of processes that a signal killed."""
START_ATTEMPTS = 2
"""Ray gives up on a node whose first imports are slow; the second find them cached."""
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class Launcher:
    """One launch. Make it inside a running event loop: it takes over the signals that stop it."""

    def __init__(
        self,
        options: LaunchOptions,
        needs: Needs,
        *,
        object_store_bytes: int | None,
        console: Console,
    ) -> None:
        """Nothing is started before `run`.

        Args:
            options: which nodes, and how they are reached.
            needs: of the run.
            object_store_bytes: size of ray's object store on each node.
            console: where tables go.
        """
        self.options = options
        self.needs = needs
        self.object_store_bytes = object_store_bytes
        self.console = console
        self.mark = secrets.token_hex(8)
        self.env = {
            **passed_on(options.env),
            "RAY_AUTH_MODE": "token",  # or whoever reaches a port could run code on the nodes
            "RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32),
            "COLUMNS": str(console.width),
        }
        root = str(Path.cwd())
        self.nodes = [LaunchNode(host, agent_words(options, host, root)) for host in options.hosts]
        self.nodes[0].address = options.head_address
        words = agent_words(options, options.hosts[0], root)
        self.driver = LaunchNode(options.hosts[0], words, shows_output=True)
        self.lost_run = False
        self.stops: list[signal.Signals] = []
        self.stopped = asyncio.Event()
        for number in STOPS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                asyncio.get_running_loop().add_signal_handler(number, self._stop, number)

    async def run(self, module: str, arguments: Sequence[str]) -> int:
        """Runs a module on the head, with the cluster's address appended to its arguments.

        Returns:
            Its exit code.

        Raises:
            InputError: the nodes do not fit; every problem has been printed.
            ComponentError: ray did not start, or the head was lost.
            RunInterruptedError: a signal came before the module ran.
        """
        try:
            address = await unless_stopped(self._bring_up(), self.stopped)
            return await self._drive(["-m", module, *arguments, f"cluster.address={address}"])
        finally:
            await self.driver.close(self.options.checkpoint_timeout_s)  # it needs ray to end well
            await asyncio.gather(*(node.close(is_over=not self.lost_run) for node in self.nodes))

    async def _bring_up(self) -> str:
        """Host and port of a cluster of all nodes."""
        self._say(f"checking {len(self.nodes)} node(s)")

        async def connect(node: LaunchNode) -> None:
            await node.connect(
                f"{self.mark}/{node.host}", self.env, self.options.checkpoint_timeout_s
            )

        _, problems = await of_each(self.nodes, connect)
        found: list[Found] = []
        if not problems:
            found, problems = await examine(
                self.nodes,
                self.needs,
                self.options,
                token=self.mark,
                ports=[ports_of(self.options, number) for number in range(len(self.nodes))],
            )
        if found:
            self.console.print(nodes_table(found))
        if problems:
            self.console.print(problems_table(problems))
            raise InputError(
                f"preflight: {len(problems)} problem(s), as above; ray was not started"
            )
        return await self._start_ray([str(node.facts["address"]) for node in found])

    async def _start_ray(self, addresses: Sequence[str]) -> str:
        head = (addresses[0], self.options.first_port(0))
        self._say(f"starting ray on {len(self.nodes)} node(s), head {head[0]}:{head[1]}")

        async def start(node: LaunchNode) -> None:
            number = self.nodes.index(node)
            arguments = ray_start(
                ports_of(self.options, number),
                addresses[number],
                f"{head[0]}:{head[1]}",
                self.options.temp_dir,
                self.object_store_bytes,
            )
            driver = {"mark": f"{self.mark}/driver"}
            for _ in range(START_ATTEMPTS):
                done = await node.ask(
                    "start",
                    arguments=arguments,
                    outlive={"address": head} if number else driver,
                    timeout_s=self.options.start_timeout_s,
                    within_s=self.options.start_timeout_s + 4 * END_TIMEOUT_S,
                )
                if done["code"] == 0:
                    return
            raise ComponentError(f"ray did not start: {done['output'].strip()[-2000:]}")

        for group in (self.nodes[:1], self.nodes[1:]):  # the head first
            _, problems = await of_each(group, start)
            if problems:
                raise ComponentError("; ".join(f"node '{p.node}': {p.what}" for p in problems))
        return f"{head[0]}:{head[1]}"

    async def _drive(self, arguments: Sequence[str]) -> int:
        """Runs the command on the head until it ends, and passes signals on to it."""
        patience_s = self.options.checkpoint_timeout_s
        await self.driver.connect(f"{self.mark}/driver", self.env, patience_s)
        await self.driver.tell("run", arguments=arguments)
        ended = asyncio.create_task(self.driver.ended())
        watches = [asyncio.create_task(self._watch(node)) for node in self.nodes]
        limit_s = None
        while not ended.done():
            stop = asyncio.create_task(self.stopped.wait())
            await asyncio.wait({ended, stop}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            if self.stopped.is_set():
                self.stopped.clear()
                await self.driver.tell("signal", name=FORWARDED.get(self.stops[-1], "SIGTERM"))
                limit_s = patience_s
            elif not ended.done():
                self._say(f"the run did not end within {patience_s:g} s and is killed")
                await self.driver.tell("signal", name="SIGKILL")
            stop.cancel()
        for watch in watches:
            watch.cancel()
        if ended.result() == LOST:
            self.lost_run = True  # it may still write its checkpoint
            raise ComponentError(f"the connection to the head '{self.driver.host}' was lost")
        # a signal may come before the run can take it
        killed = self.stops and ended.result() > KILLED
        return EXIT_INTERRUPTED if killed else ended.result()

    async def _watch(self, node: LaunchNode) -> None:
        """Says when a node is lost; what becomes of the run is the run's to decide."""
        await node.ended()
        self._say(f"the connection to node '{node.host}' was lost, and its workers with it")

    def _stop(self, number: int) -> None:
        self.stops.append(signal.Signals(number))
        self.stopped.set()

    def _say(self, text: str) -> None:
        self.console.print(f"▸ {text}", style="bold", soft_wrap=True, highlight=False)

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ur2.environments.toolbox.mcp_server import McpServer
from ur2.environments.toolbox.options import HttpServerOptions, McpServerOptions, StdioServerOptions
from ur2.errors import ComponentError, InputError

PROGRAM = str(Path(__file__).with_name("mcp_tools.py"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def url():
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, PROGRAM, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(params=["stdio", "http"])
def options(request):
    def make(**fields):
        if request.param == "stdio":
            stdio = StdioServerOptions(command=sys.executable, args=(PROGRAM,))
            return McpServerOptions(stdio=stdio, **fields)
        http = HttpServerOptions(url=request.getfixturevalue("url"))
        return McpServerOptions(http=http, **fields)

    return make


def by_stdio(*args: str, **fields) -> McpServerOptions:
    stdio = StdioServerOptions(command=sys.executable, args=args or (PROGRAM,))
    return McpServerOptions(stdio=stdio, **fields)


@contextlib.asynccontextmanager
async def started(options: McpServerOptions):
    server = McpServer("s", options)
    tools = {tool.schema.name: tool for tool in await server.start()}
    try:
        yield tools
    finally:
        await server.close()
        await server.close()


async def test_tools_are_listed_and_used_many_at_once(options):
    async with started(options()) as tools:
        assert tools["add"].schema.description == "Adds two numbers."
        assert set(tools["add"].schema.parameters["properties"]) == {"a", "b"}
        uses = await asyncio.gather(*(tools["add"].use({"a": n, "b": 1}, "") for n in range(20)))
        assert [use.facts for use in uses] == [str(n + 1) for n in range(20)]
        assert {use.outcome for use in uses} == {"found"}


async def test_a_slow_call_fails_in_time_and_holds_up_nobody(options):
    async with started(options(timeout_s=1.0)) as tools:
        slow, quick = await asyncio.gather(
            tools["slow"].use({"seconds": 60}, ""), tools["add"].use({"a": 1, "b": 1}, "")
        )
        assert slow.outcome == "failed"
        assert slow.latency_s < 5
        assert quick.facts == "2"


async def test_a_long_reply_is_cut_and_says_so(options):
    async with started(options(max_reply_chars=100)) as tools:
        use = await tools["long"].use({"size": 10_000_000}, "")
        assert use.outcome in ("found", "failed")
        assert len(use.facts) < 200
        if use.outcome == "found":
            assert use.facts.endswith("[cut: 100 of 10000000 characters]")
        assert (await tools["add"].use({"a": 1, "b": 1}, "")).facts == "2"


async def test_a_tool_that_fails_is_a_failure(options):
    async with started(options()) as tools:
        use = await tools["fail"].use({}, "")
        assert use.outcome == "failed"


async def test_a_server_that_is_killed_is_started_again_within_bounds():
    async with started(by_stdio(max_restarts=1)) as tools:
        first = (await tools["pid"].use({}, "")).facts
        uses = await asyncio.gather(tools["die"].use({}, ""), tools["slow"].use({"seconds": 9}, ""))
        assert {use.outcome for use in uses} == {"failed"}
        assert all(use.latency_s < 8 for use in uses)
        second = (await tools["pid"].use({}, "")).facts
        assert second != first
        for _ in range(3):
            assert (await tools["die"].use({}, "")).outcome == "failed"
        down = await tools["pid"].use({}, "")
        assert down.outcome == "failed"
        assert "stays down" in down.facts


async def test_no_process_is_left_behind():
    async with started(by_stdio()) as tools:
        process = psutil.Process(int((await tools["pid"].use({}, "")).facts))
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


async def test_a_cancelled_start_leaves_no_process():
    before = set(psutil.Process().children(recursive=True))
    server = McpServer("s", by_stdio("-c", "import time; time.sleep(60)"))
    start = asyncio.create_task(server.start())
    await asyncio.sleep(1)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    await server.close()
    assert set(psutil.Process().children(recursive=True)) <= before


@pytest.mark.parametrize(
    ("args", "message"),
    [(("-c", "pass"), "s: "), (("-c", "import time; time.sleep(60)"), r"s: no tools")],
)
async def test_a_server_that_does_not_come_up_is_named(args, message):
    server = McpServer("s", by_stdio(*args, start_timeout_s=2.0))
    with pytest.raises(ComponentError, match=rf"environment\.toolbox\.mcp\.{message}"):
        await server.start()


async def test_a_program_that_is_not_there_is_named():
    options = McpServerOptions(stdio=StdioServerOptions(command="no-such-program"))
    with pytest.raises(ComponentError, match="no-such-program"):
        await McpServer("s", options).start()


async def test_tools_that_the_server_does_not_have_are_named():
    with pytest.raises(InputError, match=r"has no subtract; it has add"):
        await McpServer("s", by_stdio(tools=("subtract",))).start()

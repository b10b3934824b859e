"""A small server of tools, by stdio or (with a port) by HTTP."""

import asyncio
import os
import signal
import sys

from mcp.server import MCPServer

server = MCPServer("tests")


@server.tool()
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@server.tool()
async def slow(seconds: float) -> str:
    """Sleeps."""
    await asyncio.sleep(seconds)
    return "awake"


@server.tool()
def long(size: int) -> str:
    """Says much."""
    return "x" * size


@server.tool()
def pid() -> str:
    """Tells its process."""
    return str(os.getpid())


@server.tool()
def die() -> str:
    """Is killed in the middle of a call."""
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


@server.tool()
def fail() -> str:
    """Fails."""
    raise ValueError("no luck")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run()

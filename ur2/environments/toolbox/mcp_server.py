"""Tools of a server that speaks the Model Context Protocol, through the official client.

A connection lives in a task of its own, which opens and closes it: the client's scopes belong to
one task, and closing one ends the server's process.
"""

import asyncio
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from ur2.environments.toolbox.base import Said, cut, used
from ur2.environments.toolbox.options import McpServerOptions
from ur2.errors import ComponentError, InputError
from ur2.prompts.tool_calls import ToolSchema
from ur2.types import ToolOutcome, ToolUse

if TYPE_CHECKING:
    from mcp import Client

CLOSE_TIMEOUT_S = 20.0
MAX_PAGES = 100
"""Pages of a list of tools, which a server could continue for ever."""


class McpServer:
    """One connection of a worker, made again within bounds when it breaks."""

    def __init__(self, name: str, options: McpServerOptions) -> None:
        """Connects to nothing."""
        self._name = name
        self._options = options
        self._lock = asyncio.Lock()
        self._client: Client | None = None
        self._owner: asyncio.Task[None] | None = None
        self._leave = asyncio.Event()
        self._num_tries = 0
        """Connections made since a call succeeded, the one of that call included."""

    async def start(self) -> list["McpTool"]:
        """Connects, and gives the tools to offer.

        Raises:
            InputError: a tool that the options name is not there.
            ComponentError: the server does not come up in time.
        """
        try:
            async with asyncio.timeout(self._options.start_timeout_s):
                client = await self._connected()
                schemas = await self._listed(client)
        except TimeoutError as error:
            await self.close()
            limit = self._options.start_timeout_s
            raise ComponentError(f"{self._where}: no tools within {limit:g} s") from error
        except Exception as error:  # the client raises what its transports raise
            await self.close()
            raise ComponentError(f"{self._where}: {_reason(error)}") from error
        chosen = self._options.tools
        known = {schema.name for schema in schemas}
        if missing := sorted(set(chosen or ()) - known):
            await self.close()
            raise InputError(
                f"{self._where}.tools: the server has no {', '.join(missing)}; it has "
                f"{', '.join(sorted(known))}"
            )
        return [
            McpTool(self, schema) for schema in schemas if chosen is None or schema.name in chosen
        ]

    async def call(self, name: str, arguments: Mapping[str, JsonValue]) -> Said:
        """The reply to one call; whatever goes wrong is `failed`."""
        from mcp.shared.exceptions import MCPError
        from mcp.types import CONNECTION_CLOSED

        client = None
        try:
            async with asyncio.timeout(self._options.start_timeout_s):
                client = await self._connected()
            async with asyncio.timeout(self._options.timeout_s):
                result = await client.call_tool(name, dict(arguments))
        except TimeoutError:
            reason = "no reply in time" if client else "the server does not come up in time"
            return Said(text=reason, outcome="failed")
        except MCPError as error:
            if error.code == CONNECTION_CLOSED:
                await self._drop(client)
            return Said(text=self._cut(_reason(error)), outcome="failed")
        except Exception as error:  # noqa: BLE001 the client raises what its transports raise
            await self._drop(client)
            return Said(text=self._cut(_reason(error)), outcome="failed")
        self._num_tries = 1
        blocks = (getattr(block, "text", f"[{block.type}]") for block in result.content)
        outcome: ToolOutcome = "failed" if result.is_error else "found"
        return Said(text=self._cut("\n".join(map(str, blocks))), outcome=outcome)

    async def close(self) -> None:
        """Ends the connection and, where it is a process, the server; safe to call twice."""
        owner, client = self._owner, self._client
        self._owner = self._client = None
        if owner is None:
            return
        self._leave.set()
        if client is None:  # it is still connecting
            owner.cancel()
        _, late = await asyncio.wait([owner], timeout=CLOSE_TIMEOUT_S)
        if late:
            owner.cancel()
            await asyncio.wait([owner], timeout=CLOSE_TIMEOUT_S)

    @property
    def _where(self) -> str:
        return f"environment.toolbox.mcp.{self._name}"

    def _cut(self, text: str) -> str:
        return cut(text, self._options.max_reply_chars)

    async def _connected(self) -> "Client":
        """The client; connects where there is no connection.

        Raises:
            ComponentError: it broke too often.
        """
        async with self._lock:
            if self._client is not None:
                return self._client
            if self._num_tries > self._options.max_restarts:
                raise ComponentError(f"it broke {self._num_tries} times in a row, and stays down")
            self._num_tries += 1
            await self.close()
            self._leave = asyncio.Event()
            ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
            self._owner = asyncio.create_task(self._own(ready, self._leave))
            self._client = await ready
            return self._client

    async def _drop(self, client: "Client | None") -> None:
        """Gives a broken connection up; calls that find it broken later do nothing."""
        async with self._lock:
            if client is not None and client is self._client:
                await self.close()

    async def _own(self, ready: "asyncio.Future[Client]", leave: asyncio.Event) -> None:
        """Holds one connection from its beginning to its end."""
        from mcp import Client

        try:
            async with Client(_transport(self._options)) as client:
                if ready.done():  # nobody waits for it any longer
                    return
                ready.set_result(client)
                await leave.wait()
        except BaseException as error:  # noqa: BLE001 who waits for the connection is told
            if not ready.done():
                ready.set_exception(ComponentError(_reason(error)))

    async def _listed(self, client: "Client") -> list[ToolSchema]:
        schemas: list[ToolSchema] = []
        cursor = None
        for _ in range(MAX_PAGES):
            page = await client.list_tools(cursor=cursor)
            schemas += [
                ToolSchema(
                    name=tool.name,
                    description=(tool.description or "").strip(),
                    parameters=tool.input_schema,
                )
                for tool in page.tools
            ]
            cursor = page.next_cursor
            if cursor is None:
                break
        return schemas


class McpTool:
    """One tool of a server."""

    def __init__(self, server: McpServer, schema: ToolSchema) -> None:
        self._server = server
        self.schema = schema

    async def use(self, arguments: Mapping[str, JsonValue], transcript: str) -> ToolUse:
        """Calls the server."""
        name = self.schema.name
        return await used(name, arguments, lambda: self._server.call(name, arguments))


def _transport(options: McpServerOptions) -> Any:
    from mcp.client.stdio import StdioServerParameters, stdio_client
    from mcp.client.streamable_http import streamable_http_client
    from mcp.shared._httpx_utils import create_mcp_http_client

    if options.stdio is not None:
        program = StdioServerParameters(
            command=options.stdio.command,
            args=list(options.stdio.args),
            env=dict(options.stdio.env),
            cwd=options.stdio.cwd,
        )
        return stdio_client(program, errlog=sys.__stderr__ or sys.stderr)
    if options.http is None:
        raise InputError("a server has either stdio or http")
    token = os.environ.get(options.http.token_env or "")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return streamable_http_client(
        options.http.url, http_client=create_mcp_http_client(headers=headers)
    )


def _reason(error: BaseException) -> str:
    """Names the first error inside the groups that the client wraps errors in."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    with suppress(Exception):
        return f"{type(error).__name__}: {error}"
    return type(error).__name__

"""All tools of a worker, from options."""

from collections.abc import Iterable, Iterator

from ur2.environments.base import Tool
from ur2.environments.toolbox.base import check_schema
from ur2.environments.toolbox.browse import make_browse
from ur2.environments.toolbox.calculate import CalculateTool
from ur2.environments.toolbox.mcp_server import McpServer
from ur2.environments.toolbox.options import ToolboxOptions
from ur2.environments.toolbox.python_callable import PythonTool
from ur2.environments.toolbox.search import SearchTool
from ur2.errors import InputError

WHERE = "environment.toolbox"


class Toolbox:
    """Tools by name; those of servers join them at the start."""

    def __init__(self, options: ToolboxOptions) -> None:
        """Makes the tools that need no server.

        Raises:
            InputError: a function is not there, a schema is none, or two tools share a name.
        """
        self.tools: dict[str, Tool] = {}
        """The tools that can be used; filled further by `start`."""
        self._servers = [McpServer(name, server) for name, server in options.mcp.items()]
        self._add(_local(options))

    async def start(self) -> None:
        """Starts the servers, or connects to them.

        Raises:
            InputError: a schema is none, or two tools share a name.
            ComponentError: a server does not come up.
        """
        for server in self._servers:
            self._add(await server.start())

    async def close(self) -> None:
        """Ends the connections and the servers that were started here."""
        for server in self._servers:
            await server.close()

    def _add(self, tools: Iterable[Tool]) -> None:
        for tool in tools:
            check_schema(tool.schema, where=WHERE)
            if tool.schema.name in self.tools:
                raise InputError(
                    f"{WHERE}: two tools are named '{tool.schema.name}'; leave one out, e.g. by "
                    "the server's `tools`"
                )
            self.tools[tool.schema.name] = tool


def _local(options: ToolboxOptions) -> Iterator[Tool]:
    if options.search:
        yield SearchTool()
    if options.browse is not None:
        yield make_browse(options.browse)
    if options.calculate:
        yield CalculateTool()
    for name, function in options.python.items():
        yield PythonTool(name, function)

"""Options of the tools that episodes may use."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from ur2.options import Options
from ur2.retrieval.web.options import BrowseOptions

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class PythonToolOptions(Options):
    """A function of Python as a tool; its signature and its docstring tell what it takes."""

    function: str
    """`package.module:function`; each parameter has a type."""
    timeout_s: Seconds = 10.0
    """Seconds for a call; a function that is no coroutine runs on in its thread beyond them."""
    max_concurrency: Count = 8
    """Threads of a worker that run the function; calls that run beyond their time count."""
    max_reply_chars: Count = 20_000
    """Characters of a reply; longer ones are cut, and say so."""


class StdioServerOptions(Options):
    """A server of tools that is a process of each worker."""

    command: str
    """The program."""
    args: tuple[str, ...] = ()
    """Its arguments."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables, beside a few such as PATH."""
    cwd: str | None = None
    """Where it runs; None: where the worker does."""


class HttpServerOptions(Options):
    """A server of tools that runs elsewhere, by streamable HTTP."""

    url: str = Field(pattern=r"^https?://")
    """Its address."""
    token_env: str | None = None
    """The environment variable that holds a bearer token, read in the worker; None sends none."""


class McpServerOptions(Options):
    """A server that speaks the Model Context Protocol, and which of its tools are offered."""

    stdio: StdioServerOptions | None = None
    """A process to start."""
    http: HttpServerOptions | None = None
    """An address to connect to."""
    tools: tuple[str, ...] | None = None
    """The tools to offer; None offers all."""
    start_timeout_s: Seconds = 30.0
    """Seconds to start the server, connect and list the tools."""
    timeout_s: Seconds = 30.0
    """Seconds for a call."""
    max_restarts: Annotated[int, Field(ge=0)] = 3
    """Times in a row that a worker starts the server again, or connects again, without a call that
    succeeds in between."""
    max_reply_chars: Count = 20_000
    """Characters of a reply; longer ones are cut, and say so."""

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.stdio is None) == (self.http is None):
            raise ValueError("a server has either stdio or http")
        return self


class ToolboxOptions(Options):
    """The tools that a worker offers to its episodes, beside the search of `retrieval`."""

    search: bool = False
    """Offers `search`: passages of whatever `retrieval` searches."""
    browse: BrowseOptions | None = None
    """Offers `browse`: pages that a search of the same episode found."""
    calculate: bool = False
    """Offers `calculate`: arithmetic."""
    python: dict[str, PythonToolOptions] = Field(default_factory=dict)
    """Functions of Python, by the tool's name."""
    mcp: dict[str, McpServerOptions] = Field(default_factory=dict)
    """Servers of tools, by a name for messages."""

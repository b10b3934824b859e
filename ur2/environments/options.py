"""Which environment the policy plays in, and the options of each."""

from pydantic import Field, JsonValue

from ur2.environments.search import SearchOptions
from ur2.environments.steps import StepsOptions
from ur2.environments.toolbox.options import ToolboxOptions
from ur2.environments.tools import ToolsOptions
from ur2.options import Options


class EnvironmentOptions(Options):
    """The game, and the options of each that ur2 has; only those of the chosen one matter."""

    name: str = "search"
    """`search`, `steps`, `tools`, or `package.module:Name` for one of your own."""
    search: SearchOptions = SearchOptions()
    """Search with tags."""
    steps: StepsOptions = StepsOptions()
    """R3-RAG: each step is a context of its own."""
    tools: ToolsOptions = ToolsOptions()
    """Functions as the model's own chat template shows them."""
    toolbox: ToolboxOptions = ToolboxOptions()
    """The tools that environments may use; `tools` shows all of them."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Options of an environment of your own; its class says which there are."""

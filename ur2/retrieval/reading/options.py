"""Options of what stands between an episode and its retriever."""

from typing import Annotated, Literal

from pydantic import Field

from ur2.endpoints.options import Count, EndpointOptions
from ur2.options import Options
from ur2.retrieval.web.options import WebSearchOptions
from ur2.types import Task

SummariserForm = Literal["strong", "weak"]
SummaryFallback = Literal["passages", "fail"]


class SummariserOptions(Options):
    """A language model that hands on the helpful facts of what was retrieved."""

    endpoint: EndpointOptions
    """The model that reads; its `url` is required."""
    endpoint_by_task: dict[Task, EndpointOptions] = Field(default_factory=dict)
    """Tasks that another model reads for, e.g. `math`."""
    form: SummariserForm = "strong"
    """`strong`: judges first whether the query can be searched at all; `weak`: only extracts."""
    fallback: SummaryFallback = "passages"
    """The result of an episode's search where no summary came: the `passages` as they are, which
    `retrieval/fallback_rate` counts, or `fail`: a failed search."""
    unsearchable_reply: str = Field(
        "This cannot be looked up. Work it out by reasoning, and search for facts only.",
        min_length=1,
    )
    """The reply to a query that cannot be searched; `strong` only."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.2
    """The temperature of the model's sampling."""
    max_tokens: Count = 1024
    """The longest reply, the thoughts of a model that thinks included."""
    max_reasoning_chars: Count = 12_000
    """How much of the end of the reasoning the model reads."""


class KnowledgeOptions(Options):
    """Options of look-ups that are more than a search of the one corpus there is."""

    routes: dict[Task, str] = Field(default_factory=dict)
    """The corpus of each task, e.g. `routes.math=wiki`; others search the default one."""
    web: WebSearchOptions | None = None
    """The provider of web search, for the backend `web`."""
    summariser: SummariserOptions | None = None
    """A model that reads the passages for the policy; None: it gets the passages themselves."""

"""Options of whoever asks a service of others."""

from typing import Annotated

from pydantic import Field

from ur2.options import Options

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
Price = Annotated[float, Field(ge=0)]


class ServiceAccessOptions(Options):
    """How a service is asked, and how long it may take."""

    url: str | None = None
    """The service's address; None: there is none."""
    api_key_env: str
    """The environment variable that holds the key, read where the asking is done; unset: no key is
    sent."""
    max_concurrency: Count = 32
    """Requests under way at once, per process that asks."""
    timeout_s: Seconds = 20.0
    """Seconds for one try."""
    max_tries: Count = 5
    """Tries per request."""
    deadline_s: Seconds = 100.0
    """Seconds for all tries of a request."""
    cache: str | None = None
    """A folder that keeps replies across steps and runs, by what was asked, up to 1 GiB; None keeps
    none."""


class EndpointOptions(ServiceAccessOptions):
    """A language model behind an OpenAI-compatible endpoint."""

    url: str | None = None
    """Base address of the endpoint, up to and with `/v1`; None: there is none."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the key, read where the asking is done; unset: no key is
    sent."""
    model: str = "gpt-4.1-mini"
    """The model that it serves."""
    usd_per_million_prompt_tokens: Price = 0.0
    """The price of tokens that it reads."""
    usd_per_million_completion_tokens: Price = 0.0
    """The price of tokens that it writes."""

"""The options of retrieval: what training sees, and the keys of `build` and `serve`."""

from typing import Annotated, Literal

from pydantic import Field

from ur2.options import Options
from ur2.retrieval.index_options import IndexOptions

Precision = Literal["auto", "float32", "bfloat16"]

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


class EncoderOptions(Options):
    """Where and how texts become vectors."""

    device: str = "cpu"
    """A torch device, e.g. `cpu` or `cuda:0`; `auto` takes the GPU where there is one."""
    precision: Precision = "auto"
    """Arithmetic of the encoder; `auto` is bfloat16 where the device computes it, else float32.
    Vectors are float32 either way and differ by a cosine below 1e-4."""
    num_threads: Annotated[int, Field(ge=0)] = 1
    """CPU threads of encoding and search, for the whole process; 0 is one per core."""


class ServiceOptions(EncoderOptions):
    """How a service answers many callers at once."""

    batch_window_ms: Annotated[float, Field(ge=0)] = 3.0
    """How long the first query of a batch waits for company."""
    max_batch: Count = 128
    """The most queries encoded and searched at once."""
    cache_size: Annotated[int, Field(ge=0)] = 100_000
    """Answers kept, by normalised query, least recently used out first; 0 keeps none."""


class RetrievalOptions(ServiceOptions):
    """What a training run needs to know about its retriever."""

    backend: Literal["actor", "http"] = "actor"
    """`actor`: an own service beside the run; `http`: one that already runs at `url`."""
    url: str | None = None
    """The service's address, for `http`, e.g. `http://127.0.0.1:8000`."""
    token: str | None = None
    """The bearer token that the service at `url` asks for, if any."""
    index: str | None = None
    """The index folder that `ur2.retrieval.build` made, for `actor`."""
    top_k: Count = 3
    """Passages per query."""
    deadline_s: Seconds = 30.0
    """The longest a search may take, retries included."""
    max_retries: Annotated[int, Field(ge=0)] = 3
    """Further attempts after a failure that may pass, within the deadline."""
    max_failure_rate: Annotated[float, Field(ge=0, le=1)] = 0.1
    """The share of recently failed queries past which a run stops."""


class BuildOptions(IndexOptions, EncoderOptions):
    """The keys of `python -m ur2.retrieval.build`."""

    corpus: str
    """A JSONL file of passages: `id`, `text` and optionally `title` per line."""
    out: str
    """The index folder to make; an index already there is replaced once the next is complete."""
    encoder: str = "minilm"
    """`minilm` (bundled, works offline), or any sentence-transformers name or folder."""
    query_prefix: str = ""
    """The instruction that the encoder wants before a query."""
    passage_prefix: str = ""
    """The instruction that the encoder wants before a passage."""
    batch_size: Count = 32
    """Passages encoded at once."""
    num_threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of encoding and indexing; 0 is one per core."""


class ServeOptions(ServiceOptions):
    """The keys of `python -m ur2.retrieval.serve`."""

    index: str
    """The index folder that `ur2.retrieval.build` made."""
    host: str = "127.0.0.1"
    """The address to listen on; anything but loopback requires a token."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """The port to listen on; 0 picks a free one and prints it."""
    token: str | None = None
    """The bearer token that callers must send; the variable UR2_RETRIEVAL_TOKEN does the
    same and keeps it out of the process list."""
    top_k: Count = 3
    """Passages per query where a request names no number."""
    max_top_k: Count = 100
    """The most passages per query that a request may ask for."""
    max_queries: Count = 1024
    """The most queries in one request."""
    max_query_chars: Count = 4096
    """The longest query."""

"""The options of retrieval: what training sees, and the keys of `build` and `serve`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ur2.options import Options
from ur2.retrieval.corpus.options import Paths, ReadOptions
from ur2.retrieval.index.options import IndexOptions
from ur2.retrieval.reading.options import KnowledgeOptions

Precision = Literal["auto", "float32", "bfloat16", "float16"]

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
CorpusName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
DEFAULT_CORPUS = "default"
"""The name of the corpus at `index`."""


class EncoderOptions(Options):
    """Where and how texts become vectors."""

    device: str = "cpu"
    """A torch device, e.g. `cpu` or `cuda:0`; `auto` takes the GPU where there is one."""
    precision: Precision = "auto"
    """Arithmetic of the encoder; `auto` is bfloat16 where the device computes it, else float32. One
    that a processor emulates is tens of times as slow, which is said at the start.
    Vectors are float32 either way and differ by a cosine below 1e-4."""
    num_threads: Annotated[int, Field(ge=0)] = 1
    """CPU threads of encoding and search, for the whole process; 0 is one per core."""


class IndexFolders(Options):
    """Where the indexes that `ur2.retrieval.build` made lie."""

    index: str | None = None
    """The folder of the only index, or of the default one."""
    indexes: dict[CorpusName, str] = Field(default_factory=dict)
    """Folders of further indexes by the names of their corpora, e.g. `indexes.medicine=DIR`; the
    first is the default where there is no `index`."""

    @property
    def folders(self) -> dict[str, str]:
        """All of them by name, the default first."""
        return ({DEFAULT_CORPUS: self.index} if self.index is not None else {}) | self.indexes


class ServiceOptions(EncoderOptions):
    """How a service answers many callers at once."""

    batch_window_ms: Annotated[float, Field(ge=0)] = 3.0
    """How long the first query of a batch waits for company."""
    max_batch: Count = 128
    """The most queries encoded and searched at once."""
    cache_size: Annotated[int, Field(ge=0)] = 100_000
    """Answers kept, by normalised query, least recently used out first; 0 keeps none."""
    max_query_chars: Count = 4096
    """Characters of a query that are searched with; the rest is cut off and counted."""
    max_waiting: Count = 4096
    """Queries that may wait for a batch; further ones are told to come back later."""
    reranker: str | None = None
    """A cross-encoder that has the last word on the order of what was found: a folder, or a name
    that can be downloaded, e.g. `BAAI/bge-reranker-base`; none: passages stay as found."""
    rerank_depth: Count = 50
    """Passages per query that the reranker looks at."""
    index_device: str = "cpu"
    """Where `flat`, `ivf` and `ivf_pq` vectors are searched: `cpu`, `cuda:0`, or `auto`: all GPUs
    where faiss was built for them; other kinds are always searched on the CPU."""


class RetrievalOptions(KnowledgeOptions, IndexFolders, ServiceOptions):
    """Options of the retriever of a training run."""

    backend: Literal["actor", "http", "web", "none"] = "actor"
    """`actor`: an own service beside the run; `http`: one that already runs at `url`; `web`: a
    provider of web search, at `web`; `none`: nothing, for runs that never search."""
    url: str | None = None
    """The service's address, for `http`, e.g. `http://127.0.0.1:8000`."""
    token: str | None = None
    """The bearer token that the service at `url` asks for, if any."""
    top_k: Count = 3
    """Passages per query."""
    deadline_s: Seconds = 30.0
    """The longest a search may take, retries included."""
    max_retries: Annotated[int, Field(ge=0)] = 3
    """Further attempts after a failure that may pass, within the deadline."""
    breaker_failures: Count = 10
    """Searches that fail in a row, retries included, before the next ones fail without trying."""
    breaker_rest_s: Seconds = 5.0
    """How long they do, until one search tries whether the retriever is back."""
    max_failure_rate: Annotated[float, Field(ge=0, le=1)] = 0.1
    """The share of recently failed queries past which a run stops."""

    @model_validator(mode="after")
    def _routes_lead_somewhere(self) -> Self:
        if self.backend == "web" and self.web is None:
            raise ValueError("backend 'web' needs `web.url`")
        unknown = sorted(set(self.routes.values()) - self.folders.keys())
        if self.backend == "actor" and unknown:
            known = ", ".join(self.folders) or "none"
            raise ValueError(f"`routes` name '{unknown[0]}', which is no corpus (known: {known})")
        return self


class BuildOptions(IndexOptions, ReadOptions, EncoderOptions):
    """The keys of `python -m ur2.retrieval.build`."""

    corpus: Paths
    """Passages: files, folders or patterns, several as [a,b], of the formats that
    `python -m ur2.retrieval.corpus --help` lists; or a file that it made, or a folder with one."""
    out: str
    """The index folder to make; an index already there is replaced once the next is complete."""
    encoder: str = "minilm"
    """`minilm` (bundled, works offline), or any sentence-transformers name or folder."""
    encoder_revision: str = ""
    """The commit of an encoder that is downloaded; the latest where none is given."""
    query_prefix: str | None = None
    """The instruction that the encoder wants before a query; that of bge-*-en-v1.5 and e5-*-v2 is
    known."""
    passage_prefix: str | None = None
    """The instruction that the encoder wants before a passage; likewise."""
    batch_size: Count | None = None
    """Passages encoded at once; 256 on a GPU and 32 on a CPU where no number is given. A BERT on a
    CPU takes them by their tokens instead."""
    num_threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of encoding and indexing; 0 is one per core."""
    num_workers: Annotated[int, Field(ge=0)] = 0
    """Processes that encode; 0 is one for each GPU with device=auto, else one."""
    shard_size: Count = 16_384
    """Passages whose vectors are written at once: what a kill loses at most, of each process."""
    vector_type: Literal["float32", "float16"] = "float32"
    """How vectors are kept until they are indexed; float16 takes half the disk."""
    vectors: str | None = None
    """A folder to keep the vectors in, so that another index of the same passages and encoder needs
    no encoding; else they are removed once the index is complete."""


class ServeOptions(IndexFolders, ServiceOptions):
    """The keys of `python -m ur2.retrieval.serve`."""

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
    max_body_bytes: Count = 32 * 2**20
    """The largest request."""

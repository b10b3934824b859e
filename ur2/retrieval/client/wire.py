"""The bodies that server and client exchange: Search-R1's `POST /retrieve`, UR²'s `POST /queries`.

Passages travel as one string, their contents: `title`, newline, `text`.
"""

from hashlib import sha256
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ur2.types import Passage

DEFAULT_SOURCE = "default_source"
"""The source that UR²'s callers send where they name none."""

MAX_DEADLINE_S = 86_400


def _sendable(text: str) -> str:
    """The text with `?` for what is no Unicode, which JSON can bring but not take away."""
    return text if text.isascii() else text.encode("utf-8", errors="replace").decode()


Text = Annotated[str, AfterValidator(_sendable)]
Seconds = Annotated[float, Field(gt=0, le=MAX_DEADLINE_S)]


class RetrieveRequest(BaseModel):
    """The body of a search; the first three fields are Search-R1's."""

    queries: list[Text]
    topk: int | None = None
    """Passages per query; the server's default where it is missing."""
    return_scores: bool = False
    """False: the result holds bare documents."""
    corpus: Text | None = None
    """Where to search; the server's default corpus where it is missing."""
    deadline_s: Seconds | None = None
    """How long the caller waits; what has not begun by then is not searched."""


class Document(BaseModel):
    """A passage; servers of others may number theirs, or leave out what follows from the rest.

    Without an id it has one made of its contents, so that the same passage keeps it.
    """

    model_config = ConfigDict(coerce_numbers_to_str=True)

    id: str = ""
    contents: str

    @model_validator(mode="before")
    @classmethod
    def _has_contents(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("contents") is None and "text" in given:
            return {**given, "contents": f"{given.get('title') or ''}\n{given['text']}"}
        return given

    @model_validator(mode="after")
    def _has_an_id(self) -> Self:
        if not self.id:
            self.id = sha256(self.contents.encode(errors="replace")).hexdigest()[:16]
        return self


class ScoredDocument(BaseModel):
    """A passage and how well it fits."""

    document: Document
    score: float


class RetrieveResponse(BaseModel):
    """Per query its documents, best first."""

    result: list[list[ScoredDocument]] | list[list[Document]]


class ScoredResponse(BaseModel):
    """The response to a request with `return_scores`."""

    result: list[list[ScoredDocument]]


class SourcedQuery(BaseModel):
    """A query that names its corpus and its number of passages."""

    query: Text
    source: Text | None = None
    """The corpus; `default_source`, or nothing, is the server's default."""
    k: int | None = None


class QueriesRequest(BaseModel):
    """UR²'s request, in both of its forms: plain queries with one `k`, or one object for each."""

    queries: list[Text] | list[SourcedQuery]
    k: int | None = None
    """Passages per plain query; the server's default where it is missing."""
    deadline_s: Seconds | None = None
    """As in `RetrieveRequest`."""


class PlainAnswers(BaseModel):
    """The response to plain queries: per query the contents of its passages, best first."""

    queries: list[str]
    answers: list[list[str]]


class SourcedAnswer(BaseModel):
    """The response to one object: the contents of its passages, and where they are from."""

    query: str
    answers: list[str]
    source: str
    k: int


class SourcedAnswers(BaseModel):
    """The response to objects, in their order."""

    results: list[SourcedAnswer]


class ReloadRequest(BaseModel):
    """Which corpus to open again."""

    corpus: Text | None = None
    """All of them where it is missing."""


class CorpusState(BaseModel):
    """A corpus that can be searched."""

    num_passages: int
    encoder: str
    index: str
    corpus_sha256: str


class ServiceState(BaseModel):
    """How a service is, and what it serves."""

    status: str
    """`ok`, `starting`: some corpus is still being opened, or `stopping`."""
    default: str
    corpora: dict[str, CorpusState]


class RequestProblem(BaseModel):
    """Why a request was refused or failed."""

    detail: str


def contents(passage: Passage) -> str:
    """A passage without a title begins with an empty line, which keeps `to_passage` its inverse."""
    return f"{passage.title}\n{passage.text}"


def to_passage(scored: ScoredDocument) -> Passage:
    """Reads a document; one of a single line, as other servers may send, is all text."""
    title, newline, text = scored.document.contents.partition("\n")
    return Passage(
        id=scored.document.id,
        title=title if newline else "",
        text=text if newline else title,
        score=scored.score,
    )

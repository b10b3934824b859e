"""Search-R1's `POST /retrieve`: the bodies that server and client exchange."""

from pydantic import BaseModel

from ur2.types import Passage


class RetrieveRequest(BaseModel):
    """What a caller asks."""

    queries: list[str]
    topk: int | None = None
    """Passages per query; the server's default where it is missing."""
    return_scores: bool = False
    """False: the result holds bare documents."""


class Document(BaseModel):
    """A passage, as `title`, newline, `text`."""

    id: str
    contents: str


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


def to_document(passage: Passage) -> Document:
    """A passage without a title begins with an empty line, which keeps `to_passage` its inverse."""
    return Document(id=passage.id, contents=f"{passage.title}\n{passage.text}")


def to_passage(scored: ScoredDocument) -> Passage:
    """Reads a document; one of a single line, as other servers may send, is all text."""
    title, newline, text = scored.document.contents.partition("\n")
    return Passage(
        id=scored.document.id,
        title=title if newline else "",
        text=text if newline else title,
        score=scored.score,
    )

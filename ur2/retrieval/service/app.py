"""The HTTP face of a retrieval service.

`POST /retrieve` as Search-R1's server answers it, `POST /queries` as UR²'s do, `POST /reload`,
`GET /health` (is it alive), `GET /ready` (can every corpus be searched), `GET /metrics`.
"""

import asyncio
import json
import math
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic_core import to_json

from ur2.errors import InputError, RetrievalError
from ur2.retrieval.client.errors import (
    RetrievalDeadlineError,
    RetrievalOverloadedError,
    RetrievalUnavailableError,
    UnknownCorpusError,
)
from ur2.retrieval.client.wire import (
    DEFAULT_SOURCE,
    CorpusState,
    PlainAnswers,
    QueriesRequest,
    ReloadRequest,
    RequestProblem,
    RetrieveRequest,
    RetrieveResponse,
    ServiceState,
    SourcedAnswers,
    SourcedQuery,
    contents,
)
from ur2.retrieval.options import ServeOptions
from ur2.retrieval.service.batching import RetrievalService
from ur2.retrieval.service.limits import BodyLimit, check_queries
from ur2.types import Passage

STATUS_OF: tuple[tuple[type[RetrievalError], int], ...] = (
    (UnknownCorpusError, 422),
    (RetrievalOverloadedError, 429),
    (RetrievalDeadlineError, 504),
    (RetrievalError, 503),
)
"""The first that fits counts."""
PROBLEMS = {
    400: "no JSON that could be read",
    401: "the token is missing or wrong",
    409: "the folder holds no usable index; what was open goes on serving",
    413: "the request is too large",
    422: "the request is no valid one",
    429: "too many queries wait; `Retry-After` says when to come back",
    503: "starting, stopping, or encoding or searching failed",
    504: "the deadline passed",
}
ASKING = (400, 401, 413, 422, 429, 503, 504)


class Api:
    """The endpoints."""

    def __init__(
        self, service: RetrievalService, options: ServeOptions, stopping: Callable[[], bool]
    ) -> None:
        self._service = service
        self._options = options
        self._stopping = stopping

    async def retrieve(self, asked: RetrieveRequest) -> Response:
        """Search-R1's endpoint: per query its best documents, with or without their scores."""
        top_k = self._options.top_k if asked.topk is None else asked.topk
        check_queries(asked.queries, [top_k], self._options)
        found = await self._search(asked.queries, top_k, asked.corpus, asked.deadline_s)
        shape = _scored if asked.return_scores else _document
        return _json({"result": [list(map(shape, passages)) for passages in found]})

    async def queries(self, asked: QueriesRequest) -> Response:
        """UR²'s endpoint: plain queries of the default corpus, or objects that name theirs."""
        default = self._service.corpora.names[0]
        each = [
            SourcedQuery(query=query, k=asked.k) if isinstance(query, str) else query
            for query in asked.queries
        ]
        top_ks = [self._options.top_k if query.k is None else query.k for query in each]
        sources = [
            default if query.source in (None, DEFAULT_SOURCE) else str(query.source)
            for query in each
        ]
        check_queries([query.query for query in each], top_ks, self._options)
        found = await asyncio.gather(
            *(
                self._search([query.query], top_k, source, asked.deadline_s)
                for query, top_k, source in zip(each, top_ks, sources, strict=True)
            )
        )
        answers = [list(map(contents, passages)) for (passages,) in found]
        if all(isinstance(query, str) for query in asked.queries):
            return _json({"queries": asked.queries, "answers": answers})
        rows = zip((query.query for query in each), answers, sources, top_ks, strict=True)
        names = ("query", "answers", "source", "k")
        return _json({"results": [dict(zip(names, row, strict=True)) for row in rows]})

    async def reload(self, asked: ReloadRequest) -> Response:
        """Opens indexes again from their folders; what was open serves until then."""
        names = self._service.corpora.names if asked.corpus is None else (asked.corpus,)
        for name in names:
            try:
                await self._service.reload(name)
            except InputError as error:
                raise HTTPException(409, f"corpus '{name}' stays as it was: {error}") from error
        return await self.health()

    async def health(self) -> Response:
        """Alive: the process answers."""
        corpora = {
            index.name: CorpusState(
                num_passages=index.manifest.num_passages,
                encoder=index.manifest.recipe.encoder_name,
                index=index.manifest.recipe.index.kind,
                corpus_sha256=index.manifest.recipe.corpus_sha256,
            )
            for index in self._service.corpora
        }
        default = self._service.corpora.names[0]
        return _json(ServiceState(status=self._status(), default=default, corpora=corpora))

    async def ready(self) -> Response:
        """Ready: every corpus can be searched, and the service is not about to end."""
        state = await self.health()
        state.status_code = 200 if self._status() == "ok" else 503
        return state

    async def metrics(self) -> Response:
        """Prometheus's text format."""
        text = self._service.prometheus()
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _search(
        self, queries: list[str], top_k: int, corpus: str | None, within_s: float | None
    ) -> list[tuple[Passage, ...]]:
        if self._stopping():
            raise RetrievalUnavailableError("the service is about to end")
        return await self._service.search(queries, top_k, corpus, within_s)

    def _status(self) -> str:
        if self._stopping():
            return "stopping"
        return "ok" if self._service.corpora.all_open else "starting"


def create_app(
    service: RetrievalService,
    options: ServeOptions,
    *,
    token: str | None,
    stopping: Callable[[], bool] = lambda: False,
) -> FastAPI:
    """An application that answers from `service`, and closes it when it ends.

    Args:
        service: what answers.
        options: the limits on requests.
        token: the bearer token that callers must send, if any; health and readiness need none.
        stopping: whether new searches are to be refused, as the process is about to end.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close()

    app = FastAPI(title="ur2 retrieval", lifespan=lifespan)
    app.add_middleware(BodyLimit, max_bytes=options.max_body_bytes)
    app.add_exception_handler(RetrievalError, _unavailable)
    app.add_exception_handler(RequestValidationError, _malformed)
    api = Api(service, options, stopping)
    guarded: Any = {"dependencies": [Depends(_guard(token))]} if token is not None else {}
    post: Any = {"methods": ["POST"], **guarded}
    app.add_api_route(
        "/retrieve", api.retrieve, response_model=RetrieveResponse, responses=_may(*ASKING), **post
    )
    app.add_api_route(
        "/queries",
        api.queries,
        response_model=PlainAnswers | SourcedAnswers,
        responses=_may(*ASKING),
        **post,
    )
    app.add_api_route(
        "/reload",
        api.reload,
        response_model=ServiceState,
        responses=_may(400, 401, 409, 413, 422),
        **post,
    )
    app.add_api_route("/health", api.health, response_model=ServiceState)
    app.add_api_route(
        "/ready", api.ready, response_model=ServiceState, responses={503: {"model": ServiceState}}
    )
    plain: dict[int | str, dict[str, Any]] = {
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}}
    }
    app.add_api_route(
        "/metrics", api.metrics, response_class=Response, responses=plain | _may(401), **guarded
    )
    return app


def _guard(token: str) -> Callable[..., None]:
    wanted = token.encode()

    def authorised(
        given: Annotated[
            HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))
        ],
    ) -> None:
        # Headers reach Python as Latin-1.
        sent = b"" if given is None else given.credentials.encode("latin-1")
        if not secrets.compare_digest(sent, wanted):
            raise HTTPException(
                401,
                "send the header 'Authorization: Bearer TOKEN'",
                headers={"WWW-Authenticate": "Bearer"},
            )

    return authorised


def _may(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {
        status: {"model": RequestProblem, "description": PROBLEMS[status]} for status in statuses
    }


def _unavailable(request: Request, error: Exception) -> Response:
    status = next(status for cls, status in STATUS_OF if isinstance(error, cls))
    headers = {}
    if isinstance(error, RetrievalUnavailableError) and status in (429, 503):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s or 0)))
    return _problem(status, str(error), headers)


def _malformed(request: Request, error: Exception) -> Response:
    # Unlike FastAPI's own reply this does not repeat the input, which JSON may not hold.
    problems = [
        f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
        for problem in error.errors()  # type: ignore[attr-defined]
    ]
    return _problem(422, "; ".join(problems[:3]), {})


def _problem(status: int, detail: str, headers: dict[str, str]) -> Response:
    # Escaped to ASCII, in which every string can be sent.
    body = json.dumps({"detail": detail})
    return Response(body, status, headers, media_type="application/json")


def _json(content: Any) -> Response:
    return Response(to_json(content), media_type="application/json")


def _document(passage: Passage) -> dict[str, Any]:
    return {"id": passage.id, "contents": contents(passage)}


def _scored(passage: Passage) -> dict[str, Any]:
    return {"document": _document(passage), "score": passage.score}

"""The HTTP face of a retrieval service: Search-R1's `POST /retrieve`, health and metrics."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse

from ur2.errors import RetrievalError
from ur2.retrieval.options import ServeOptions
from ur2.retrieval.service import RetrievalService
from ur2.retrieval.wire import RetrieveRequest, RetrieveResponse, ScoredDocument, to_document


def create_app(service: RetrievalService, options: ServeOptions, *, token: str | None) -> FastAPI:
    """An application that answers from `service`, and closes it when it ends.

    Args:
        service: what answers.
        options: the limits on requests.
        token: the bearer token that callers must send, if any; health needs none.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close()

    def authorised(authorization: Annotated[str, Header()] = "") -> None:
        given, wanted = authorization.encode("latin-1"), f"Bearer {token}".encode()
        if token is not None and not secrets.compare_digest(given, wanted):
            raise HTTPException(401, "send the header 'Authorization: Bearer TOKEN'")

    app = FastAPI(title="ur2 retrieval", lifespan=lifespan)

    @app.exception_handler(RetrievalError)
    async def unavailable(request: Request, error: RetrievalError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=503)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        # Unlike FastAPI's own reply this does not repeat the input, which JSON may not hold.
        problems = [
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()
        ]
        return JSONResponse({"detail": "; ".join(problems[:3])}, status_code=422)

    @app.post("/retrieve", dependencies=[Depends(authorised)])
    async def retrieve(request: RetrieveRequest) -> RetrieveResponse:
        top_k = options.top_k if request.topk is None else request.topk
        _check(request.queries, top_k, options)
        found = await service.search(request.queries, top_k)
        if not request.return_scores:
            return RetrieveResponse(result=[list(map(to_document, passages)) for passages in found])
        return RetrieveResponse(
            result=[
                [ScoredDocument(document=to_document(p), score=p.score) for p in passages]
                for passages in found
            ]
        )

    @app.get("/health")
    async def health() -> dict[str, str | int]:
        manifest = service.store.manifest
        return {
            "status": "ok",
            "num_passages": manifest.num_passages,
            "encoder": manifest.recipe.encoder_name,
            "index": manifest.recipe.index.kind,
            "corpus_sha256": manifest.recipe.corpus_sha256,
        }

    @app.get("/metrics", dependencies=[Depends(authorised)])
    async def metrics() -> PlainTextResponse:
        """Prometheus's text format."""
        lines = [
            f"# TYPE ur2_retrieval_{name} gauge\nur2_retrieval_{name} {value}\n"
            for name, value in service.metrics().items()
        ]
        return PlainTextResponse("".join(lines), media_type="text/plain; version=0.0.4")

    return app


def _check(queries: list[str], top_k: int, options: ServeOptions) -> None:
    problems = []
    if not 1 <= top_k <= options.max_top_k:
        problems.append(f"topk must be between 1 and {options.max_top_k}, got {top_k}")
    if len(queries) > options.max_queries:
        problems.append(f"at most {options.max_queries} queries, got {len(queries)}")
    problems.extend(
        f"query {number} must have between 1 and {options.max_query_chars} characters"
        for number, query in enumerate(queries)
        if not query.strip() or len(query) > options.max_query_chars
    )
    if problems:
        raise HTTPException(422, "; ".join(problems[:3]))

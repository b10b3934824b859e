"""Limits that keep a request from costing more than it may, before anything reads it."""

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ur2.retrieval.options import ServeOptions


class BodyLimit:
    """Refuses a request whose body is too large with 413, as soon as that is known."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification; bodies without a declared length count as they come."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen = 0
        declared = _declared_length(scope)

        async def receive_limited() -> Message:
            nonlocal seen
            if declared > self._max_bytes:
                raise self._too_large()
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                raise self._too_large()
            return message

        await self._app(scope, receive_limited, send)

    def _too_large(self) -> HTTPException:
        # What the caller goes on to send would be taken for its next request.
        return HTTPException(
            413,
            f"a request may have at most {self._max_bytes} bytes",
            headers={"Connection": "close"},
        )


def check_queries(queries: list[str], top_ks: list[int], options: ServeOptions) -> None:
    """Makes sure that numbers of queries and passages are within `options`.

    What a query holds is no reason to refuse: the service answers an empty one with nothing, and
    cuts one that is too long.

    Raises:
        HTTPException: 422, naming the first problems.
    """
    problems = [
        f"topk must be between 1 and {options.max_top_k}, got {top_k}"
        for top_k in dict.fromkeys(top_ks)
        if not 1 <= top_k <= options.max_top_k
    ]
    if len(queries) > options.max_queries:
        problems.append(f"at most {options.max_queries} queries, got {len(queries)}")
    if problems:
        raise HTTPException(422, "; ".join(problems[:3]))


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0

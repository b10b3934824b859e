"""HTTP clients for hundreds of requests at once."""

import ssl
from dataclasses import dataclass
from typing import Any

import httpx

REQUESTS_PER_POOL = 2


def many_connections(**options: Any) -> httpx.AsyncClient:
    """A client with any number of connections; `options` are httpx's, without `limits`.

    Proxies that the environment names are used as ever.
    """
    context = httpx.create_ssl_context()
    return httpx.AsyncClient(
        mounts={"all://": SpreadTransport(context)},
        verify=context,
        limits=httpx.Limits(max_connections=None),
        **options,
    )


@dataclass(slots=True)
class _Pool:
    transport: httpx.AsyncHTTPTransport
    num_waiting: int = 0
    """Requests without a reply."""


class SpreadTransport(httpx.AsyncBaseTransport):
    """Spreads requests over pools of a few connections; the first with room takes the next.

    Whenever a request begins or ends, a pool of httpcore compares all its requests with all its
    connections: with 128 under way that takes 5 ms of processor time for each.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._pools: list[_Pool] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See httpx."""
        pool = self._with_room()
        pool.num_waiting += 1
        try:
            return await pool.transport.handle_async_request(request)
        finally:
            pool.num_waiting -= 1

    async def aclose(self) -> None:
        """Closes all connections."""
        for pool in self._pools:
            await pool.transport.aclose()

    def _with_room(self) -> _Pool:
        for pool in self._pools:
            if pool.num_waiting < REQUESTS_PER_POOL:
                return pool
        limits = httpx.Limits(max_connections=None)
        self._pools.append(_Pool(httpx.AsyncHTTPTransport(verify=self._context, limits=limits)))
        return self._pools[-1]

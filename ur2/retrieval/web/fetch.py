"""Fetching pages that strangers name: only public addresses, within bounds of size and time.

Each hop resolves the host once, checks every address that it has, and connects to a checked one;
what the name resolves to a moment later cannot matter.
"""

import asyncio
import functools
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import httpx

from ur2.errors import RetrievalError
from ur2.retrieval.web.options import BrowseOptions

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]

CONTENT_TYPES = frozenset({"text/html", "application/xhtml+xml", "text/plain"})
MAX_URL_CHARS = 2048
HEADERS = {
    "User-Agent": "Mozilla/5.0 (compatible; ur2)",
    "Accept": "text/html,application/xhtml+xml,text/plain",
    # A few compressed bytes can grow without bound.
    "Accept-Encoding": "identity",
}
_UNICAST_V6 = ipaddress.ip_network("2000::/3")


class FetchError(RetrievalError):
    """A page that could not, or must not, be fetched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A page as it came."""

    url: str
    """Where it lay in the end."""
    content_type: str
    charset: str | None
    content: bytes


async def resolve(host: str, port: int) -> list[str]:
    """All addresses of a host, by the system's resolver."""
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in infos))


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, and stands for no other address."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # one with a scope, which is link-local
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        return ip in _UNICAST_V6 and ip.is_global and ip.sixtofour is None
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


async def fetch(url: str, options: BrowseOptions, *, resolver: Resolver = resolve) -> Fetched:
    """The page at `url`, redirects followed.

    The caller bounds the time.

    Raises:
        FetchError: an address is not public or not one of HTTP, or the page is too large, of
            another type, compressed or not there.
    """
    # A client of its own: neither cookies nor connections of one host are there for the next.
    async with httpx.AsyncClient(
        headers=HEADERS, timeout=options.timeout_s, trust_env=False, verify=_tls()
    ) as http:
        for _ in range(options.max_redirects + 1):
            hop = await _hop(http, _parse(url), options, resolver)
            if isinstance(hop, Fetched):
                return hop
            url = hop
            http.cookies.clear()
    raise FetchError(f"more than {options.max_redirects} redirects")


async def _hop(
    http: httpx.AsyncClient, url: httpx.URL, options: BrowseOptions, resolver: Resolver
) -> Fetched | str:
    """The page, or where a redirect leads."""
    address = await _address(url, options, resolver)
    request = http.build_request(
        "GET",
        url.copy_with(host=address),
        headers={"Host": url.netloc.decode("ascii"), "Connection": "close"},
        extensions={"sni_hostname": url.raw_host.decode("ascii")},
    )
    try:
        response = await http.send(request, stream=True)
        try:
            if response.has_redirect_location:
                return str(url.join(response.headers["Location"]))
            return await _read(response, url, options.max_bytes)
        finally:
            await response.aclose()
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        raise FetchError(f"{url.host}: {error!r}") from error


async def _read(response: httpx.Response, url: httpx.URL, max_bytes: int) -> Fetched:
    content_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if not response.is_success:
        raise FetchError(f"{url.host} answered with status {response.status_code}")
    if content_type not in CONTENT_TYPES:
        raise FetchError(f"{url.host} sent '{content_type[:100]}', which is no page of text")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise FetchError(f"{url.host} sent a compressed page, which was not asked for")
    content = bytearray()
    async for chunk in response.aiter_raw():
        content += chunk
        if len(content) > max_bytes:
            raise FetchError(f"{url.host} sent more than {max_bytes} bytes")
    return Fetched(
        url=str(url),
        content_type=content_type,
        charset=response.charset_encoding,
        content=bytes(content),
    )


def _parse(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url) if len(url) <= MAX_URL_CHARS else None
    except httpx.InvalidURL:
        parsed = None
    if (
        parsed is None
        or parsed.scheme not in ("http", "https")
        or not parsed.host
        or not 0 < (parsed.port or 80) < 2**16
    ):
        raise FetchError("that is no address of a page")
    if parsed.userinfo:
        raise FetchError("an address with a password is not fetched")
    return parsed


async def _address(url: httpx.URL, options: BrowseOptions, resolver: Resolver) -> str:
    """An address of the host that may be connected to."""
    host = url.raw_host.decode("ascii").strip("[]")
    try:
        addresses = await resolver(host, url.port or (443 if url.scheme == "https" else 80))
    except (OSError, UnicodeError) as error:
        raise FetchError(f"{url.host} has no address") from error
    if not addresses:
        raise FetchError(f"{url.host} has no address")
    if url.host not in options.allow_private_hosts and not all(map(is_public, addresses)):
        raise FetchError(f"{url.host} is not on the public internet")
    return addresses[0]


@functools.cache
def _tls() -> ssl.SSLContext:
    """Made once, as loading the certificates is slow."""
    return httpx.create_ssl_context(trust_env=False)

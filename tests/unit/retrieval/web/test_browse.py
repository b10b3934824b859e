"""Browsing against a real HTTP server of this machine, which is allowed by the name of its host."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ur2.retrieval.web.browse import Browser
from ur2.retrieval.web.fetch import is_public
from ur2.retrieval.web.options import BrowseOptions
from ur2.types import RetrievalFailed, ToolUse

PARAGRAPH = "Paris is the capital of France, and by far its largest city. "
HTML = f"""<html><head><title>Paris</title><script>steal()</script></head><body>
<nav><a href="/">Home</a> <a href="/login">Log in</a></nav>
<article><h1>Paris</h1><p>{PARAGRAPH * 5}</p></article></body></html>""".encode()
SECRET = b"the secret of an internal service"


def names(table: dict[str, list[str]]):
    """A resolver of these hosts, which counts what it is asked."""

    async def resolver(host: str, port: int) -> list[str]:
        resolver.asked.append(host)
        if host not in table:
            raise OSError("unknown")
        answers = table[host]
        return answers.pop(0) if isinstance(answers[0], list) else answers

    resolver.asked = []
    return resolver


@pytest.fixture
def site(serve_http, http_answer):
    """A site at `pages.test` with the given paths, and a browser that may see it."""

    def make(pages: dict, hosts: dict | None = None, **options):
        def script(sent):
            answer = pages.get(sent.path, 404)
            if isinstance(answer, bytes):
                headers = {"Content-Type": "text/html; charset=utf-8"}
                return http_answer(body=answer, headers=headers)
            return answer() if callable(answer) else answer

        server = serve_http(script)
        resolver = names(hosts or {"pages.test": ["127.0.0.1"]})
        allowed = {"allow_private_hosts": ("pages.test",), "timeout_s": 2.0}
        browser = Browser(BrowseOptions(**{**allowed, **options}), resolver=resolver)

        async def read(path_or_url: str, **keywords):
            url = path_or_url
            if url.startswith("/"):
                url = f"http://pages.test:{server.port}{url}"
            found = ToolUse(tool="search", arguments={"query": "x"}, outcome="found", ids=(url,))
            return await browser.read(url, [found], **keywords)

        return read, server, resolver

    return make


async def test_the_text_of_a_page_comes_without_its_menus(site):
    read, server, _ = site({"/p": HTML})
    page = await read("/p")
    assert page.title == "Paris"
    assert page.text.count(PARAGRAPH.strip()) == 5
    assert "Log in" not in page.text
    assert "steal" not in page.text
    assert (page.number, page.num_parts) == (1, 1)
    assert server.sent[0].headers["host"] == f"pages.test:{server.port}"
    assert server.sent[0].headers["accept-encoding"] == "identity"


WORDS = "Müller wohnt in Zürich, größer als Bern. " * 12
PAGE = (
    "<html><head>{meta}<title>Zürich</title></head>"
    "<body><article><p>{text}</p></article></body></html>"
)


@pytest.mark.parametrize(
    ("encoding", "header", "meta", "mark"),
    [
        ("latin-1", "text/html; charset=iso-8859-1", "", b""),
        ("latin-1", "text/html; charset=iso-8859-1", '<meta charset="utf-8">', b""),
        ("latin-1", "text/html", '<meta charset="iso-8859-1">', b""),
        ("cp1252", "text/html; charset=nonsense", '<meta charset="windows-1252">', b""),
        ("utf-8", "text/html", "", b"\xef\xbb\xbf"),
        ("utf-8", "text/html", "", b""),
        ("utf-16-le", "text/html", "", b"\xff\xfe"),
        ("latin-1", "text/plain; charset=latin-1", "", b""),
        ("utf-8", "text/plain", "", b""),
    ],
)
async def test_the_charset_of_the_header_counts_then_the_mark_then_the_page(
    site, http_answer, encoding, header, meta, mark
):
    text = WORDS if "plain" in header else PAGE.format(meta=meta, text=WORDS)
    body = mark + text.encode(encoding)
    answer = http_answer(body=body, headers={"Content-Type": header})
    read, _, _ = site({"/p": lambda: answer})
    page = await read("/p")
    assert "Müller wohnt in Zürich, größer als Bern." in page.text
    assert page.title in ("Zürich", "")


async def test_only_addresses_that_a_search_gave_are_fetched(site):
    _, server, resolver = site({"/p": HTML})
    browser = Browser(BrowseOptions(allow_private_hosts=("pages.test",)), resolver=resolver)
    searches = [
        ToolUse(
            tool="search",
            arguments={"query": "x"},
            outcome="found",
            ids=("http://pages.test/other",),
        )
    ]
    failed = await browser.read(f"http://pages.test:{server.port}/p", searches)
    assert isinstance(failed, RetrievalFailed)
    assert not server.sent
    assert not resolver.asked


async def test_long_texts_come_in_parts_and_no_others(site, http_answer):
    text = "".join(f"{number:04d} " for number in range(1000)).strip()
    plain = http_answer(body=text.encode(), headers={"Content-Type": "text/plain"})
    read, _, _ = site({"/p": plain}, page_chars=2000)
    parts = [await read("/p", number=number) for number in (1, 2, 3)]
    assert "".join(part.text for part in parts) == text
    assert {part.num_parts for part in parts} == {3}
    for number in (0, 4, -1):
        assert "parts 1 to 3" in (await read("/p", number=number)).reason


@pytest.mark.parametrize("path", ["/same", "/absolute"])
async def test_redirects_are_followed(site, http_answer, path):
    read, server, resolver = site(
        {
            "/same": lambda: http_answer(status=302, headers={"Location": "/p"}),
            "/absolute": lambda: http_answer(
                status=301, headers={"Location": f"http://pages.test:{server.port}/p"}
            ),
            "/p": HTML,
        }
    )
    assert (await read(path)).title == "Paris"
    assert resolver.asked == ["pages.test"] * 2


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:{port}/secret",
        "http://localhost:{port}/secret",
        "//inside.test:{port}/secret",
        "http://[::1]:{port}/secret",
        "http://0x7f000001:{port}/secret",
        "http://2130706433:{port}/secret",
        "http://[::ffff:127.0.0.1]:{port}/secret",
        "http://169.254.169.254/latest/meta-data",
        "http://user:word@pages.test:{port}/secret",
        "file:///etc/passwd",
        "ftp://pages.test/secret",
        "http://[broken",
        "http://pages.test:99999/",
    ],
)
async def test_a_redirect_to_what_must_not_be_reached_is_refused(site, http_answer, target):
    read, server, _ = site(
        {
            "/p": lambda: http_answer(
                status=302, headers={"Location": target.format(port=server.port)}
            ),
            "/secret": SECRET,
        },
        hosts={
            "pages.test": ["127.0.0.1"],
            "inside.test": ["10.0.0.7"],
            "127.0.0.1": ["127.0.0.1"],
            "localhost": ["127.0.0.1", "::1"],
            "0x7f000001": ["127.0.0.1"],
            "2130706433": ["127.0.0.1"],
            "::1": ["::1"],
            "::ffff:127.0.0.1": ["::ffff:127.0.0.1"],
            "169.254.169.254": ["169.254.169.254"],
        },
    )
    found = await read("/p")
    assert isinstance(found, RetrievalFailed)
    assert SECRET.decode() not in found.reason
    assert [sent.path for sent in server.sent] == ["/p"]


async def test_a_private_address_is_refused_with_the_systems_resolver_too(serve_http):
    server = serve_http(lambda sent: 200)
    browser = Browser(BrowseOptions())
    for host in ("127.0.0.1", "localhost", "0x7f.1", "127.1"):
        url = f"http://{host}:{server.port}/"
        searches = [ToolUse(tool="search", arguments={"query": "x"}, outcome="found", ids=(url,))]
        assert isinstance(await browser.read(url, searches), RetrievalFailed)
    assert not server.sent


async def test_a_host_with_one_private_address_is_refused(site):
    read, server, _ = site({}, hosts={"mixed.test": ["93.184.216.34", "127.0.0.1"]})
    assert "public" in (await read(f"http://mixed.test:{server.port}/")).reason
    assert not server.sent


async def test_a_name_that_changes_its_address_is_asked_once_and_held_to_it(site):
    hosts = {"rebinding.test": [["93.184.216.34"], ["127.0.0.1"], ["127.0.0.1"]]}
    read, server, resolver = site({"/secret": SECRET}, hosts=hosts, timeout_s=0.3)
    found = await read(f"http://rebinding.test:{server.port}/secret")
    assert isinstance(found, RetrievalFailed)
    assert resolver.asked == ["rebinding.test"]
    assert not server.sent


async def test_redirects_have_an_end(site, http_answer):
    read, server, _ = site(
        {"/p": lambda: http_answer(status=302, headers={"Location": "/p"})}, max_redirects=3
    )
    assert "3 redirects" in (await read("/p")).reason
    assert len(server.sent) == 4


async def test_an_endless_page_is_cut_short(site, http_answer):
    sent = []

    def endless():
        for _ in range(10_000):
            sent.append(1)
            yield b"x" * 10_000

    page = http_answer(body=endless(), headers={"Content-Type": "text/html"})
    read, _, _ = site({"/p": page}, max_bytes=100_000)
    assert "100000 bytes" in (await read("/p")).reason
    assert len(sent) < 5_000


async def test_a_page_that_drips_is_given_up_in_time(site, http_answer):
    def drip():
        for _ in range(40):
            time.sleep(0.05)
            yield b"x"

    page = http_answer(body=drip(), headers={"Content-Type": "text/html"})
    read, _, _ = site({"/p": page}, timeout_s=0.3)
    started = time.monotonic()
    assert "0.3 s" in (await read("/p")).reason
    assert time.monotonic() - started < 1.0


@pytest.mark.parametrize(
    ("headers", "status", "reason"),
    [
        ({"Content-Type": "application/pdf"}, 200, "application/pdf"),
        ({"Content-Type": "image/png"}, 200, "image/png"),
        ({}, 200, "no page of text"),
        ({"Content-Type": "text/html", "Content-Encoding": "gzip"}, 200, "compressed"),
        ({"Content-Type": "text/html"}, 404, "404"),
        ({"Content-Type": "text/html"}, 500, "500"),
    ],
)
async def test_what_is_no_page_of_text_is_a_typed_failure(
    site, http_answer, headers, status, reason
):
    read, _, _ = site({"/p": http_answer(body=HTML, status=status, headers=headers)})
    assert reason in (await read("/p")).reason


@pytest.mark.parametrize(
    "body", [b"", b"<html></html>", b"<div>" * 100_000, b"\x00" * 1000, bytes(range(256)) * 40]
)
async def test_a_broken_page_is_a_failure_or_text(site, body):
    read, _, _ = site({"/p": body})
    found = await read("/p")
    assert isinstance(found, RetrievalFailed) or found.text


async def test_pages_are_kept_for_some_days_and_failures_are_not(site, tmp_path):
    pages = {"/p": 503}
    read, server, _ = site(pages, cache=str(tmp_path))
    assert isinstance(await read("/p"), RetrievalFailed)
    pages["/p"] = HTML
    first = await read("/p")
    assert await read("/p") == first
    assert len(server.sent) == 2
    read, server, _ = site({"/q": HTML}, cache=str(tmp_path), cache_days=1e-9)
    await read("/q")
    await asyncio.sleep(0.01)
    await read("/q")
    assert len(server.sent) == 2


async def test_no_cookie_and_no_secret_goes_along(site, http_answer, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    moved = {"Location": "/p", "Set-Cookie": "id=1"}
    read, server, _ = site({"/a": http_answer(status=302, headers=moved), "/p": HTML})
    assert (await read("/a")).title == "Paris"
    assert all("cookie" not in sent.headers for sent in server.sent)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0"),
        *("100.64.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "198.18.0.1"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fec0::1", "ff02::1"),
        *("::ffff:127.0.0.1", "::ffff:8.8.8.8", "::7f00:1", "64:ff9b::7f00:1", "2002:7f00:1::"),
        *("2001:db8::1", "2001:0:7f00:1::", "nonsense", ""),
    ],
)
def test_addresses_that_are_not_of_the_public_internet(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700:4700::1111"])
def test_addresses_of_the_public_internet(address):
    assert is_public(address)


@given(st.ip_addresses(network="10.0.0.0/8") | st.ip_addresses(network="::ffff:0:0/96"))
def test_no_private_or_disguised_address_is_public(address):
    assert not is_public(str(address))

"""Web search against a real HTTP server on this machine."""

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ur2.endpoints.cache import DiskCache, content_key
from ur2.endpoints.http import PassingError
from ur2.errors import InputError
from ur2.retrieval.web.options import WebSearchOptions
from ur2.retrieval.web.search import PROVIDERS, WebRetriever, read_results
from ur2.types import Passage, RetrievalFailed

ONE = {"title": "France", "url": "http://a.org/fr", "text": "Its capital is Paris."}
TWO = {"title": "Italy", "url": "https://b.org/it", "text": "Its capital is Rome."}
PASSAGES = tuple(Passage(id=r["url"], title=r["title"], text=r["text"]) for r in (ONE, TWO))


def as_sent_by(provider: str, *results: dict) -> dict:
    """A good reply of a provider."""
    dialect = PROVIDERS[provider]
    named = [
        {dialect.title: r["title"], dialect.url: r["url"], dialect.text: r["text"], "position": 1}
        for r in results
    ]
    reply = {
        "serper": {"searchParameters": {"q": "x"}, "organic": named},
        "bing": {"_type": "SearchResponse", "webPages": {"value": named, "total": 2}},
        "searxng": {"query": "x", "results": named, "answers": []},
    }
    return reply[provider]


@pytest.fixture
def search(serve_http):
    """Searches once with a server's answers; also gives the server."""

    async def run(answer, query="capitals", top_k=5, **options):
        server = serve_http(lambda sent: answer)
        retriever = WebRetriever(
            WebSearchOptions(**{"url": f"{server.url}/search", "max_tries": 2, **options})
        )
        (found,) = await retriever.search([query], top_k)
        await retriever.close()
        return found, server

    return run


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_results_are_passages_whose_ids_are_addresses(search, provider):
    found, _ = await search(as_sent_by(provider, ONE, TWO), provider=provider)
    assert found == PASSAGES


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_no_results_are_found_and_not_a_failure(search, provider):
    assert (await search(as_sent_by(provider), provider=provider))[0] == ()


BLOCKED = {"query": "x", "results": [], "unresponsive_engines": [["google", "CAPTCHA"]]}


@pytest.mark.parametrize(
    ("provider", "reply"),
    [
        ("searxng", BLOCKED),
        ("searxng", {"query": "x", "results": [], "error": "rate limit"}),
        ("bing", {"_type": "ErrorResponse", "errors": [{"code": "InsufficientAuthorization"}]}),
        ("serper", {"searchParameters": {"q": "x"}, "message": "Not enough credits"}),
    ],
)
async def test_nothing_found_by_engines_that_did_not_answer_is_a_passing_failure(
    search, tmp_path, provider, reply
):
    kept = {"provider": provider, "cache": str(tmp_path)}
    found, server = await search(reply, **kept)
    assert isinstance(found, RetrievalFailed)
    assert len(server.sent) == 2, "tried again"
    found, server = await search(as_sent_by(provider, ONE, TWO), **kept)
    assert found == PASSAGES, "nothing was kept"


async def test_results_count_though_some_engines_did_not_answer(search):
    reply = {**as_sent_by("searxng", ONE, TWO), "unresponsive_engines": [["google", "timeout"]]}
    assert (await search(reply, provider="searxng"))[0] == PASSAGES


async def test_an_empty_query_is_not_sent_and_a_long_one_is_cut(search):
    found, server = await search(as_sent_by("serper", ONE), query=" \n")
    assert (found, server.sent) == ((), [])
    _, server = await search(as_sent_by("serper", ONE), query="a" * 5000, max_query_chars=50)
    assert server.sent[0].json["q"] == "a" * 50


async def test_a_reply_without_the_list_is_one_without_results(search):
    assert (await search({"searchParameters": {}}, provider="serper"))[0] == ()
    assert (await search({"_type": "SearchResponse"}, provider="bing"))[0] == ()


@pytest.mark.parametrize(
    ("provider", "method", "path", "header"),
    [
        ("serper", "POST", "/search", "x-api-key"),
        ("bing", "GET", "/search?q=a+%26+b&count=2", "ocp-apim-subscription-key"),
        ("searxng", "GET", "/search?q=a+%26+b&format=json", "authorization"),
    ],
)
async def test_each_provider_is_asked_in_its_dialect(
    search, monkeypatch, provider, method, path, header
):
    monkeypatch.setenv("WEB_SEARCH_API_KEY", "k")
    _, server = await search(as_sent_by(provider, ONE), query="a & b", top_k=2, provider=provider)
    (sent,) = server.sent
    assert (sent.method, sent.path) == (method, path)
    assert sent.headers[header] in ("k", "Bearer k")
    if method == "POST":
        assert sent.json == {"q": "a & b", "num": 2}


async def test_no_more_than_top_k_and_each_address_once(search):
    reply = as_sent_by("searxng", ONE, ONE, TWO)
    assert (await search(reply, provider="searxng"))[0] == PASSAGES
    assert (await search(reply, provider="searxng", top_k=1))[0] == PASSAGES[:1]


@pytest.mark.parametrize(
    "hostile",
    [
        {"message": "quota exceeded"},
        {"searchParameters": {}, "organic": "quota exceeded"},
        {"searchParameters": {}, "organic": ["x", 3, None]},
        {"searchParameters": {}, "organic": [{"link": "javascript:alert(1)", "title": "x"}]},
        {"searchParameters": {}, "organic": [{"link": 3}]},
        [],
        "down",
        None,
        403,
        503,
    ],
)
async def test_whatever_is_no_answer_is_a_typed_failure(search, hostile):
    found, _ = await search(hostile)
    assert isinstance(found, RetrievalFailed)


@pytest.mark.parametrize("body", [b"", b"[" * 10**5, b'{"a":' * 10**5, b"\xff", b"1" * 10_000])
async def test_what_is_not_json_is_a_typed_failure(search, http_answer, body):
    found, server = await search(http_answer(body=body))
    assert isinstance(found, RetrievalFailed)
    assert len(server.sent) == 2


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["organic", "searchParameters", "link", "title", "snippet", "results"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(JSON, st.sampled_from(sorted(PROVIDERS)))
def test_any_json_is_read_as_passages_or_refused(reply, provider):
    try:
        passages = read_results(reply, PROVIDERS[provider])
    except PassingError:
        return
    for passage in passages:
        assert passage.id.startswith(("http://", "https://"))
        (passage.title + passage.text).encode()


async def test_huge_and_broken_texts_are_made_harmless(search):
    broken = {"title": "\ud800", "url": "http://a.org/", "text": "x" * 10**6}
    (passage,), _ = await search(as_sent_by("serper", broken))
    assert passage.title == "?"
    assert len(passage.text) <= 4000


async def test_answers_are_kept_by_query_and_number_and_failures_are_not(search, tmp_path):
    cache = str(tmp_path)
    assert isinstance((await search(503, cache=cache, max_tries=1))[0], RetrievalFailed)
    first, server = await search(as_sent_by("serper", ONE), cache=cache)
    assert first == PASSAGES[:1]
    same = {"cache": cache, "url": f"{server.url}/search"}
    assert (await search(503, **same))[0] == first
    assert len(server.sent) == 1
    await search(503, query="other", **same)
    await search(503, top_k=2, **same)
    assert len(server.sent) == 3


async def test_a_kept_reply_that_cannot_be_read_is_asked_for_again(serve_http, tmp_path):
    server = serve_http(lambda sent: as_sent_by("serper", ONE))
    options = WebSearchOptions(url=server.url, cache=str(tmp_path))
    cache = DiskCache(str(tmp_path), where="retrieval.web.cache")
    asked = PROVIDERS["serper"].ask("q", 3)
    await cache.put(content_key([server.url, asked]), {"other": "form"})
    retriever = WebRetriever(options)
    assert await retriever.search(["q"], 3) == [PASSAGES[:1]]
    assert await retriever.search(["q"], 3) == [PASSAGES[:1]]
    assert len(server.sent) == 1


async def test_queries_are_asked_at_once_and_answered_in_order(serve_http, http_answer):
    def script(sent):
        return as_sent_by("serper", ONE if sent.json["q"] == "one" else TWO)

    server = serve_http(script)
    retriever = pickle.loads(pickle.dumps(WebRetriever(WebSearchOptions(url=server.url))))
    found = await retriever.search(["one", "two", "one"], 3)
    assert [passages[0].title for passages in found] == ["France", "Italy", "France"]


def test_an_address_is_needed():
    with pytest.raises(InputError, match="'url' is required"):
        WebSearchOptions.load({}, where="retrieval.web")

"""The chat client against a real HTTP server on this machine."""

import asyncio
import json
import multiprocessing
import pickle
import re
import sqlite3
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ur2.endpoints.cache import DiskCache
from ur2.endpoints.chat import ChatClient, json_object, quoted
from ur2.endpoints.http import MAX_REPLY_BYTES, JsonClient
from ur2.endpoints.options import EndpointOptions
from ur2.errors import InputError


def chat_reply(text: object, **usage: object) -> dict:
    return {"choices": [{"message": {"content": text}}], "usage": usage}


def as_number(text: str) -> int | None:
    return int(text) if text.isdigit() else None


@pytest.fixture
def ask(serve_http):
    """Asks a server of scripted replies once; also gives the server."""

    async def run(*replies, user="u", **options):
        left = list(replies)
        server = serve_http(lambda sent: left.pop(0) if len(left) > 1 else left[0])
        options = EndpointOptions(**{"url": f"{server.url}/v1", "max_tries": 3, **options})
        async with ChatClient(options, where="test") as chat:
            return await chat.ask("s", user, as_number, temperature=0.5), server

    return run


async def test_a_reply_is_what_was_read_of_it(ask):
    reply, server = await ask(chat_reply("42"))
    assert (reply.value, reply.failure) == (42, "")
    (sent,) = server.sent
    assert sent.path == "/v1/chat/completions"
    assert sent.json["temperature"] == 0.5
    assert [m["content"] for m in sent.json["messages"]] == ["s", "u"]


async def test_a_malformed_reply_is_asked_for_again_and_never_a_value(ask):
    reply, server = await ask(chat_reply("no number"), chat_reply("7"))
    assert reply.value == 7
    assert len(server.sent) == 2
    reply, server = await ask(chat_reply("no number"))
    assert reply.value is None
    assert "no number" in reply.failure
    assert len(server.sent) == 3


@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        b"not JSON",
        b"[" * 100_000,
        b'{"choices": 3}',
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": ["4"]}}]}',
        b'{"choices": [{"message": {"content": null}}], "usage": {"prompt_tokens": "x"}}',
        b"\xff\xfe\x00",
        b"NaN",
        b"null",
    ],
)
async def test_a_hostile_reply_is_a_failure(ask, http_answer, hostile):
    reply, _ = await ask(http_answer(body=hostile), max_tries=1)
    assert reply.value is None
    assert reply.failure
    assert reply.usage.num_tokens == 0


async def test_an_endless_reply_is_cut_short(ask, http_answer):
    endless = (b"[" * 2**16 for _ in range(100 * MAX_REPLY_BYTES // 2**16))
    reply, server = await ask(http_answer(body=endless))
    assert str(MAX_REPLY_BYTES) in reply.failure
    assert len(server.sent) == 1


async def test_half_a_character_in_a_reply_does_not_travel_on(serve_http):
    server = serve_http(lambda sent: chat_reply("a\ud800b"))
    async with ChatClient(EndpointOptions(url=server.url), where="test") as chat:
        reply = await chat.ask("s", "u", str, temperature=0.0)
    assert reply.value is not None
    assert reply.value.encode() == b"a?b"


async def test_tokens_and_cost_count_tries_that_failed_and_nothing_for_kept_replies(ask, tmp_path):
    options = {
        "usd_per_million_prompt_tokens": 2.0,
        "usd_per_million_completion_tokens": 8.0,
        "cache": str(tmp_path),
    }
    replies = (
        chat_reply("?", prompt_tokens=1000, completion_tokens=10),
        chat_reply("5", prompt_tokens=1000, completion_tokens=20),
    )
    reply, _ = await ask(*replies, **options)
    assert reply.usage.num_tokens == 2030
    assert reply.usage.cost_usd == pytest.approx((2000 * 2 + 30 * 8) / 1e6)
    kept, server = await ask(chat_reply("6"), **options)
    assert (kept.value, kept.usage.num_tokens, kept.usage.cost_usd) == (5, 0, 0.0)
    assert not server.sent


async def test_what_is_kept_depends_on_all_that_was_asked(ask, tmp_path):
    cache = str(tmp_path)
    assert (await ask(chat_reply("1"), cache=cache))[0].value == 1
    assert (await ask(chat_reply("2"), cache=cache, user="other"))[0].value == 2
    assert (await ask(chat_reply("3"), cache=cache, model="other"))[0].value == 3
    assert (await ask(chat_reply("4"), cache=cache))[0].value == 1


async def test_failures_are_not_kept(ask, tmp_path):
    assert (await ask(500, cache=str(tmp_path), max_tries=1))[0].value is None
    assert (await ask(chat_reply("1"), cache=str(tmp_path)))[0].value == 1


async def test_a_service_that_asks_to_be_left_alone_is(ask, http_answer):
    busy = http_answer(status=429, headers={"Retry-After": "1"})
    started = time.monotonic()
    reply, _ = await ask(busy, chat_reply("1"))
    assert reply.value == 1
    assert time.monotonic() - started >= 1.0


async def test_a_try_and_all_tries_have_an_end(ask, http_answer):
    slow = http_answer(body=b"{}", delay_s=0.5)
    reply, server = await ask(slow, timeout_s=0.05, max_tries=2)
    assert "0.05 s" in reply.failure
    assert len(server.sent) == 2
    started = time.monotonic()
    reply, _ = await ask(slow, deadline_s=0.1)
    assert "0.1 s" in reply.failure
    assert time.monotonic() - started < 0.4


async def test_a_reply_that_drips_does_not_outlive_its_try(ask, http_answer):
    def drip():
        for _ in range(20):
            time.sleep(0.05)
            yield b" "

    started = time.monotonic()
    reply, _ = await ask(http_answer(body=drip()), timeout_s=0.15, max_tries=1)
    assert reply.value is None
    assert time.monotonic() - started < 0.6


async def test_an_endpoint_that_keeps_failing_is_left_alone_for_a_while(serve_http):
    server = serve_http(lambda sent: 401)
    options = EndpointOptions(url=server.url, max_concurrency=6)
    async with ChatClient(options, where="test") as chat:
        asked = [chat.ask("s", str(n), as_number, temperature=0.0) for n in range(40)]
        replies = await asyncio.gather(*asked)
    assert all(reply.value is None for reply in replies)
    assert 6 <= len(server.sent) <= 11
    assert "in a row" in replies[-1].failure
    assert "401" in replies[-1].failure


async def test_requests_in_flight_are_limited(serve_http, http_answer):
    body = json.dumps(chat_reply("1")).encode()
    server = serve_http(lambda sent: http_answer(body=body, delay_s=0.03))
    async with ChatClient(EndpointOptions(url=server.url, max_concurrency=3), where="test") as chat:
        asked = [chat.ask("s", str(n), as_number, temperature=0.0) for n in range(12)]
        assert {reply.value for reply in await asyncio.gather(*asked)} == {1}
    assert server.most_at_once == 3


async def test_a_client_travels_to_another_process_without_its_key(serve_http, monkeypatch):
    server = serve_http(lambda sent: chat_reply("1"))
    monkeypatch.setenv("TEST_KEY", "secret-of-mine")
    packed = pickle.dumps(
        ChatClient(EndpointOptions(url=server.url, api_key_env="TEST_KEY"), where="test")
    )
    assert b"secret-of-mine" not in packed
    async with pickle.loads(packed) as chat:
        assert (await chat.ask("s", "u", as_number, temperature=0.0)).value == 1
    assert server.sent[0].headers["authorization"] == "Bearer secret-of-mine"


async def test_a_redirect_does_not_carry_the_key_elsewhere(ask, http_answer):
    reply, server = await ask(http_answer(status=302, headers={"Location": "/elsewhere"}))
    assert "302" in reply.failure
    assert len(server.sent) == 1


def put_many(folder: str, name: str) -> None:
    async def put() -> None:
        cache = DiskCache(folder, where="test")
        for number in range(30):
            await cache.put(f"{number}", {"by": name, "number": number})

    asyncio.run(put())


async def test_many_processes_share_a_cache(tmp_path):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=put_many, args=(str(tmp_path), n)) for n in ("a", "b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        await asyncio.to_thread(writer.join)
    assert [writer.exitcode for writer in writers] == [0, 0]
    cache = DiskCache(str(tmp_path), where="test")
    kept = [await cache.get(f"{number}") for number in range(30)]
    assert [entry["number"] for entry in kept] == list(range(30))


class Mine:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


async def test_a_pickle_in_the_cache_is_refused_and_not_loaded(tmp_path):
    cache = DiskCache(str(tmp_path), where="test")
    await cache.put("key", "value")
    cache.close()
    with sqlite3.connect(tmp_path / "cache.db") as connection:
        connection.execute("UPDATE Cache SET mode = 4, value = ?", (pickle.dumps(Mine()),))
    connection.close()
    assert await DiskCache(str(tmp_path), where="test").get("key") is None


async def test_entries_expire(tmp_path):
    cache = DiskCache(str(tmp_path), where="test", expire_s=0.1)
    await cache.put("key", [1])
    assert await cache.get("key") == [1]
    await asyncio.sleep(0.15)
    assert await cache.get("key") is None


def test_a_folder_that_cannot_be_is_an_error_that_names_its_key(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"test\.cache"):
        DiskCache(str(tmp_path / "file"), where="test.cache").open()


@pytest.mark.parametrize("url", ["localhost:8000", "http://", "http://[::1", "ftp://a.org", ""])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(InputError, match=rf"test\.url: '{re.escape(url)}'"):
        JsonClient(EndpointOptions(url=url), where="test")


async def test_a_body_that_cannot_be_decompressed_is_a_failure(ask, http_answer):
    reply, _ = await ask(
        http_answer(body=b"not gzip", headers={"Content-Encoding": "gzip"}), max_tries=1
    )
    assert "Decoding" in reply.failure


async def test_a_key_with_a_line_break_is_sent_without_it(ask, monkeypatch):
    monkeypatch.setenv("TEST_KEY", "secret\n")
    reply, server = await ask(chat_reply("1"), api_key_env="TEST_KEY")
    assert reply.value == 1
    assert server.sent[0].headers["authorization"] == "Bearer secret"


async def test_a_key_of_any_letters_is_sent(ask, monkeypatch):
    monkeypatch.setenv("TEST_KEY", "cl\u00e9")
    reply, server = await ask(chat_reply("1"), api_key_env="TEST_KEY")
    assert reply.value == 1
    assert server.sent[0].headers["authorization"].encode("latin-1").decode() == "Bearer cl\u00e9"


STRUCTURE = ("<|im_end|>", "</s>", "<s>", "[INST] [/INST]", "<end_of_turn>", "\\<|x|>", "<\uff5cU")
HOSTILE = st.text(st.characters(exclude_categories=())) | st.sampled_from(STRUCTURE)


@given(st.lists(HOSTILE, max_size=5))
def test_quoted_data_reads_back_and_holds_no_structure_of_a_chat(texts):
    text = quoted({"texts": texts})
    text.encode()
    assert not any(mark in text for mark in ("<|", "<\uff5c", "</s>", "<s>", "[INST]", "[/INST]"))
    clean = [t.encode("utf-8", "replace").decode() for t in texts]
    assert json.loads(text) == {"texts": clean}


def test_comparisons_stay_readable_in_quoted_data():
    assert quoted(["x < 3 and y <= [4]"]) == '["x < 3 and y <= [4]"]'


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ('{"a": 1}', {"a": 1}),
        ('```json\n{"a": 1}\n```', {"a": 1}),
        ('<think>maybe {"a": 2}</think>\n\n{"a": 1}', {"a": 1}),
        ('Sure! {"a": 1}', None),
        ("[1]", None),
        ("", None),
        ("{" * 50_000, None),
    ],
)
def test_only_a_reply_that_is_one_object_is_read_as_one(reply, found):
    assert json_object(reply) == found

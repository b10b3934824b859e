import asyncio
from contextlib import asynccontextmanager

import httpx

from ur2.endpoints.connections import REQUESTS_PER_POOL, many_connections

NUM = 41


class Server:
    """Answers no request before `expected` of them are there."""

    def __init__(self):
        self.num_connections = 0
        self.open = 0
        self.expected = 1
        self.waiting = 0
        self.all_there = asyncio.Event()
        self.all_but_one_there = asyncio.Event()
        self.all_closed = asyncio.Event()

    async def serve(self, reader, writer):
        self.num_connections += 1
        self.open += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.waiting += 1
                if self.waiting == self.expected - 1:
                    self.all_but_one_there.set()
                if self.waiting == self.expected:
                    self.all_there.set()
                await self.all_there.wait()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        except asyncio.IncompleteReadError:
            self.open -= 1
            if not self.open:
                self.all_closed.set()
            writer.close()

    def expect(self, num):
        self.expected, self.waiting = num, 0
        self.all_there.clear()


@asynccontextmanager
async def serving():
    state = Server()
    server = await asyncio.start_server(state.serve, "127.0.0.1", 0, backlog=256)
    port = server.sockets[0].getsockname()[1]
    async with server:
        async with many_connections(trust_env=False, timeout=None) as client:
            yield state, client, f"http://127.0.0.1:{port}/"
        while state.open:
            state.all_closed.clear()
            await state.all_closed.wait()


async def ask(client, url, num):
    replies = await asyncio.gather(*(client.get(url) for _ in range(num)))
    assert [reply.text for reply in replies] == ["ok"] * num


async def test_all_requests_are_under_way_at_once_and_their_connections_are_used_again():
    async with serving() as (server, client, url), asyncio.timeout(30):
        for _ in range(3):
            server.expect(NUM)
            await ask(client, url, NUM)
        assert server.num_connections == NUM
        for _ in range(20):
            server.expect(1)
            await ask(client, url, 1)
        assert server.num_connections == NUM


async def test_no_pool_has_many_connections():
    async with serving() as (server, client, url), asyncio.timeout(30):
        server.expect(NUM)
        await ask(client, url, NUM)
        (spread,) = client._mounts.values()
        sizes = [len(pool.transport._pool.connections) for pool in spread._pools]
        assert sum(sizes) == NUM
        assert max(sizes) <= REQUESTS_PER_POOL


async def test_requests_that_are_given_up_make_room_and_closing_closes_all():
    async with serving() as (server, client, url), asyncio.timeout(30):
        server.expect(NUM + 1)
        given_up = [asyncio.create_task(client.get(url)) for _ in range(NUM)]
        await server.all_but_one_there.wait()
        for task in given_up:
            task.cancel()
        await asyncio.gather(*given_up, return_exceptions=True)
        (spread,) = client._mounts.values()
        assert [pool.num_waiting for pool in spread._pools] == [0] * len(spread._pools)
        server.all_closed.clear()
        server.expect(1)
        await ask(client, url, 1)
        await client.aclose()
        await server.all_closed.wait()


async def test_a_proxy_of_the_environment_is_used(monkeypatch):
    async with serving() as (server, _, url), asyncio.timeout(30):
        monkeypatch.setenv("HTTP_PROXY", url)
        async with many_connections() as client:
            await ask(client, "http://elsewhere.invalid/", 1)
        assert server.num_connections == 1


def test_the_client_takes_httpx_options():
    client = many_connections(base_url="http://127.0.0.1:1", headers={"a": "b"})
    assert client.base_url == httpx.URL("http://127.0.0.1:1")
    assert client.headers["a"] == "b"

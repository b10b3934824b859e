"""Shared fixtures: HTTP servers of this machine that answer by a script."""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@dataclass(kw_only=True)
class Sent:
    """A request that a server got."""

    method: str
    path: str
    headers: dict[str, str]
    """By name in lower case."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(kw_only=True)
class Answer:
    """What a server sends back; chunks are sent one by one, without a length."""

    body: bytes | Iterable[bytes] = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0


class Server:
    """Answers each request with `script(sent)`: an Answer, a status, or an object sent as JSON."""

    def __init__(self, script: Callable[[Sent], Any]) -> None:
        self.sent: list[Sent] = []
        self.most_at_once = 0
        self._num_at_once = 0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server._answer(self, script)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None: ...

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._http.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def _answer(self, handler: BaseHTTPRequestHandler, script: Callable[[Sent], Any]) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        sent = Sent(method=handler.command, path=handler.path, headers=headers, body=body)
        with self._lock:
            self.sent.append(sent)
            self._num_at_once += 1
            self.most_at_once = max(self.most_at_once, self._num_at_once)
            answer = script(sent)
        if isinstance(answer, int):
            answer = Answer(status=answer)
        elif not isinstance(answer, Answer):
            answer = Answer(body=json.dumps(answer).encode())
        time.sleep(answer.delay_s)
        with self._lock:
            self._num_at_once -= 1
        handler.send_response(answer.status)
        for name, value in answer.headers.items():
            handler.send_header(name, value)
        chunks = [answer.body] if isinstance(answer.body, bytes) else answer.body
        if isinstance(answer.body, bytes):
            handler.send_header("Content-Length", str(len(answer.body)))
        handler.end_headers()
        try:
            for chunk in chunks:
                handler.wfile.write(chunk)
        except OSError:  # the client has had enough
            handler.close_connection = True

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def serve_http() -> Iterator[Callable[[Callable[[Sent], Any]], Server]]:
    """Starts servers, and ends them with the test."""
    servers: list[Server] = []

    def start(script: Callable[[Sent], Any]) -> Server:
        servers.append(Server(script))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def http_answer() -> type[Answer]:
    """The class of answers; test files cannot import a conftest."""
    return Answer

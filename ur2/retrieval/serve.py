"""`python -m ur2.retrieval.serve index=DIR`: a retrieval service over HTTP.

SIGTERM and SIGINT end it after the requests under way; SIGHUP opens all indexes again.
"""

import asyncio
import errno
import ipaddress
import logging
import os
import signal
import socket
import sys

import uvicorn

from ur2.errors import InputError, run_entry
from ur2.options import parse_command_line
from ur2.retrieval.options import ServeOptions
from ur2.retrieval.service.app import create_app
from ur2.retrieval.service.batching import RetrievalService
from ur2.retrieval.service.corpora import Corpora, OpenIndex

PROG = "python -m ur2.retrieval.serve"
TOKEN_VARIABLE = "UR2_RETRIEVAL_TOKEN"
SHUTDOWN_S = 10
"""How long requests under way may take to end after SIGTERM or SIGINT."""
SWITCH_S = 0.0005
logger = logging.getLogger(__name__)


def main() -> None:
    """The command's entry; SIGTERM ends it with 0 after the requests under way."""
    options = parse_command_line(ServeOptions, prog=PROG, about="Serves retrieval indexes.")
    # OpenMP threads that spin while they wait take the cores from the event loop. Read when torch
    # is loaded, which is later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Threads that encode need the interpreter's lock thousands of times a second, each time for a
    # moment, and else wait for the event loop up to ten times as long.
    sys.setswitchinterval(SWITCH_S)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    token = options.token or os.environ.get(TOKEN_VARIABLE) or None
    corpora = Corpora(options.folders, options)
    with listen(options.host, options.port, token=token) as listener:
        config = uvicorn.Config(
            "", log_level="warning", access_log=False, timeout_graceful_shutdown=SHUTDOWN_S
        )
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(_serve(corpora, options, config, listener, token))


async def _serve(
    corpora: Corpora,
    options: ServeOptions,
    config: uvicorn.Config,
    listener: socket.socket,
    token: str | None,
) -> None:
    """Answers from the start, searches from when the indexes are open."""
    service = RetrievalService(corpora, options)
    server = uvicorn.Server(config)
    config.app = create_app(service, options, token=token, stopping=lambda: server.should_exit)
    reloads: set[asyncio.Task[None]] = set()  # the loop itself keeps no task alive

    def reload() -> None:
        reloads.add(task := asyncio.create_task(_reload(service)))
        task.add_done_callback(reloads.discard)

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
    serving = asyncio.create_task(server.serve([listener]))
    opening = asyncio.create_task(_open(service, f"at {_url(listener)}"))
    await asyncio.wait((serving, opening), return_when=asyncio.FIRST_COMPLETED)
    if not opening.done():
        opening.cancel()
    elif error := opening.exception():
        server.should_exit = True
        await serving
        raise error
    await serving


async def _open(service: RetrievalService, where: str) -> None:
    opened = [_described(await service.reload(name)) for name in service.corpora.names]
    sys.stdout.write(f"serving {', '.join(opened)} {where}\n")
    sys.stdout.flush()


async def _reload(service: RetrievalService) -> None:
    for name in service.corpora.names:
        try:
            logger.warning("opened again: %s", _described(await service.reload(name)))
        except InputError as error:
            logger.error("corpus '%s' stays as it was: %s", name, error)


def _described(index: OpenIndex) -> str:
    recipe = index.manifest.recipe
    return (
        f"{index.name} ({index.manifest.num_passages} passages, {recipe.encoder_name} encoder, "
        f"{recipe.index.kind} index)"
    )


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def listen(host: str, port: int, *, token: str | None) -> socket.socket:
    """Takes the port before anything slow is loaded.

    Raises:
        InputError: the address is open to others but no token is set, or cannot be had.
    """
    if not _is_loopback(host) and not token:
        raise InputError(
            f"host={host} can be reached from other machines: set token=... or {TOKEN_VARIABLE}, "
            "or use host=127.0.0.1"
        )
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"port {port} of {host} is taken; end what listens there, or choose another with "
                "port=... (port=0 picks a free one)"
            ) from error
        raise InputError(f"cannot listen on {host}:{port}: {error.strerror}") from error


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


if __name__ == "__main__":
    run_entry(main)

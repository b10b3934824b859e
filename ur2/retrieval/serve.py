"""`python -m ur2.retrieval.serve index=DIR`: a retrieval service over HTTP."""

import errno
import ipaddress
import os
import signal
import socket
import sys

import uvicorn

from ur2.errors import InputError, run_entry
from ur2.options import parse_command_line
from ur2.retrieval.app import create_app
from ur2.retrieval.options import ServeOptions
from ur2.retrieval.service import RetrievalService

PROG = "python -m ur2.retrieval.serve"
TOKEN_VARIABLE = "UR2_RETRIEVAL_TOKEN"
SHUTDOWN_S = 10
"""How long requests under way may take to end after SIGTERM or SIGINT."""


def main() -> None:
    """The command's entry; SIGTERM ends it with 0 after the requests under way."""
    options = parse_command_line(ServeOptions, prog=PROG, about="Serves a retrieval index.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    token = options.token or os.environ.get(TOKEN_VARIABLE) or None
    with listen(options.host, options.port, token=token) as listener:
        service = RetrievalService.open(options.index, options)
        host, port = listener.getsockname()[:2]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        manifest = service.store.manifest
        sys.stdout.write(
            f"serving {options.index} ({manifest.num_passages} passages, "
            f"{manifest.recipe.encoder_name} encoder, {manifest.recipe.index.kind} index) "
            f"at http://{address}\n"
        )
        sys.stdout.flush()
        config = uvicorn.Config(
            create_app(service, options, token=token),
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=SHUTDOWN_S,
        )
        uvicorn.Server(config).run(sockets=[listener])


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

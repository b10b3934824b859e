"""Both ends of a rendezvous prove that they were told of it, before anything else is read.

The secret of a rendezvous goes where the rendezvous goes, and is in no message. What is sent after
the proof is neither hidden nor signed: the network between policy and engines is trusted as far as
that.
"""

import hmac
import secrets
import socket
from collections.abc import Sequence

from ur2.transfer.records import Rendezvous

NUM_BYTES = 32
"""Bytes of a nonce, and of a proof."""
PROVE_TIMEOUT_S = 10.0
POLICY, ENGINE, ABSENT = "policy", "engine", "absent"
"""The end that proves it; `ABSENT`: on behalf of a process that does not come."""
UNKNOWN = "the other end does not know the secret of the rendezvous"


def make_secret() -> str:
    """One that nobody can guess."""
    return secrets.token_hex(NUM_BYTES)


def sign(secret: str, what: str, content: bytes) -> bytes:
    """HMAC of a message under the secret of the rendezvous."""
    return hmac.digest(secret.encode(), what.encode() + b"\0" + content, "sha256")


def prove(peer: socket.socket, secret: str, mine: str, theirs: Sequence[str]) -> str:
    """Both ends prove that they know the secret, each by a number that the other has just drawn.

    Returns:
        Which of `theirs` the other end is.

    Raises:
        PermissionError: it is none of them.
        OSError: it is gone, or does not answer in time.
    """
    nonce = secrets.token_bytes(NUM_BYTES)
    peer.sendall(nonce)
    peer.sendall(sign(secret, mine, read(peer, NUM_BYTES)))
    answer = read(peer, NUM_BYTES)
    for role in theirs:
        if hmac.compare_digest(answer, sign(secret, role, nonce)):
            return role
    raise PermissionError(UNKNOWN)


def call_off(rendezvous: Rendezvous) -> bool:
    """Tells a policy that waits for engines that one process does not come; whether it heard."""
    where = (rendezvous.address, rendezvous.port)
    try:
        with socket.create_connection(where, timeout=PROVE_TIMEOUT_S) as policy:
            prove(policy, rendezvous.secret, ABSENT, (POLICY,))
    except OSError:
        return False
    return True


def read(peer: socket.socket, num_bytes: int) -> bytes:
    """So many bytes.

    Raises:
        OSError: the other end is gone, or does not send them in time.
    """
    content = bytearray(num_bytes)
    read_into(peer, memoryview(content))
    return bytes(content)


def read_into(peer: socket.socket, buffer: memoryview) -> None:
    """Fills the buffer, or fails as `read`."""
    while buffer:
        num_bytes = peer.recv_into(buffer)
        if not num_bytes:
            raise ConnectionError("the other end has left")
        buffer = buffer[num_bytes:]

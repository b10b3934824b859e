"""The channel between CPUs: plain connections."""

import math
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import torch

from ur2.transfer.channel import JOIN_TIMEOUT_S, Load, Weights, parts
from ur2.transfer.proof import ABSENT, ENGINE, POLICY, PROVE_TIMEOUT_S, prove, read_into
from ur2.transfer.records import Rendezvous, WeightsManifest


class TcpChannel:
    """A connection from policy rank 0 to each process of the engines, between CPUs.

    An end that is gone is known at once, which gloo's broadcast leaves to a timeout.
    """

    def __init__(self, rendezvous: Rendezvous, rank: int, device: torch.device) -> None:
        self._part_bytes = rendezvous.part_bytes
        self._peers: list[socket.socket] = []
        try:
            if rank == 0:
                self._accept(rendezvous)
            else:
                self._peers.append(_connect(rendezvous))
                prove(self._peers[0], rendezvous.secret, ENGINE, (POLICY,))
        except OSError:
            self.close()
            raise
        for peer in self._peers:
            peer.settimeout(rendezvous.timeout_s)

    def _accept(self, rendezvous: Rendezvous) -> None:
        """Waits until each process of the engines is there, or is known not to come."""
        num_missing, num_absent = rendezvous.num_ranks - 1, 0
        until_s = time.monotonic() + JOIN_TIMEOUT_S
        with socket.create_server((rendezvous.address, rendezvous.port)) as server:
            while num_missing > num_absent:
                server.settimeout(max(until_s - time.monotonic(), 0.01))
                try:
                    peer = server.accept()[0]
                except TimeoutError:
                    break
                role = _role(peer, rendezvous.secret)
                num_absent += role == ABSENT
                if role == ENGINE:
                    self._peers.append(peer)
                    num_missing -= 1
                else:
                    peer.close()
        if num_missing:
            num = rendezvous.num_ranks - 1
            raise ConnectionError(f"{num_missing} of the engines' {num} processes did not come")

    def send(self, manifest: WeightsManifest, weights: Weights) -> None:
        """Sends every part to each engine's process."""
        sized = ((tensor, tensor.nbytes) for _, tensor in weights)
        with ThreadPoolExecutor(len(self._peers)) as pool:
            for part in parts(sized, self._part_bytes):
                packed = torch.cat([tensor.reshape(-1).view(torch.uint8) for tensor in part])
                for _ in pool.map(socket.socket.sendall, self._peers, repeat(packed.numpy())):
                    pass

    def receive(self, manifest: WeightsManifest, load: Load) -> None:
        """Reads part after part and loads each."""
        (peer,) = self._peers
        sized = (
            ((name, shape, dtype), math.prod(shape) * dtype.itemsize)
            for name, shape, dtype in manifest.tensors()
        )
        for part in parts(sized, self._part_bytes):
            sizes = [math.prod(shape) * dtype.itemsize for _, shape, dtype in part]
            packed = torch.empty(sum(sizes), dtype=torch.uint8)
            read_into(peer, packed.numpy().data)
            pieces = zip(part, torch.split(packed, sizes), strict=True)
            load([(name, _as(p, dtype).view(shape)) for (name, shape, dtype), p in pieces])

    def close(self) -> None:
        """Closes the sockets."""
        for peer in self._peers:
            peer.close()


def _role(peer: socket.socket, secret: str) -> str | None:
    """The role of a peer that knows the secret; None for a stranger."""
    peer.settimeout(PROVE_TIMEOUT_S)
    try:
        return prove(peer, secret, POLICY, (ENGINE, ABSENT))
    except OSError:
        return None


def _connect(rendezvous: Rendezvous) -> socket.socket:
    """The policy may begin to listen a moment later."""
    until_s = time.monotonic() + JOIN_TIMEOUT_S
    while True:
        try:
            return socket.create_connection(
                (rendezvous.address, rendezvous.port), timeout=JOIN_TIMEOUT_S
            )
        except ConnectionRefusedError:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.05)


def _as(packed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Bytes as a tensor; those that begin in the middle of an element's place are moved."""
    if packed.storage_offset() % dtype.itemsize:
        packed = packed.clone()
    return packed.view(dtype)

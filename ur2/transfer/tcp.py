"""The channel between CPUs: plain connections."""

import math
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import torch

from ur2.transfer.channel import JOIN_TIMEOUT_S, Load, Weights, parts
from ur2.transfer.records import Manifest, Meeting


class TcpChannel:
    """A connection from policy rank 0 to each process of the engines, between CPUs.

    An end that is gone is known at once, which gloo's broadcast leaves to a timeout.
    """

    def __init__(self, meeting: Meeting, rank: int, device: torch.device) -> None:
        self._part_bytes = meeting.part_bytes
        self._peers: list[socket.socket] = []
        try:
            if rank == 0:
                self._accept(meeting)
            else:
                self._peers.append(_connect(meeting))
        except OSError:
            self.close()
            raise
        for peer in self._peers:
            peer.settimeout(meeting.timeout_s)

    def _accept(self, meeting: Meeting) -> None:
        with socket.create_server((meeting.address, meeting.port)) as server:
            server.settimeout(JOIN_TIMEOUT_S)
            while len(self._peers) < meeting.num_ranks - 1:
                self._peers.append(server.accept()[0])

    def send(self, manifest: Manifest, weights: Weights) -> None:
        """See `Channel.send`."""
        sized = ((tensor, tensor.nbytes) for _, tensor in weights)
        with ThreadPoolExecutor(len(self._peers)) as pool:
            for part in parts(sized, self._part_bytes):
                packed = torch.cat([tensor.reshape(-1).view(torch.uint8) for tensor in part])
                for _ in pool.map(socket.socket.sendall, self._peers, repeat(packed.numpy())):
                    pass

    def receive(self, manifest: Manifest, load: Load) -> None:
        """See `Channel.receive`."""
        (peer,) = self._peers
        sized = (
            ((name, shape, dtype), math.prod(shape) * dtype.itemsize)
            for name, shape, dtype in manifest.tensors()
        )
        for part in parts(sized, self._part_bytes):
            sizes = [math.prod(shape) * dtype.itemsize for _, shape, dtype in part]
            packed = torch.empty(sum(sizes), dtype=torch.uint8)
            _read(peer, packed.numpy().data)
            pieces = zip(part, torch.split(packed, sizes), strict=True)
            load([(name, p.view(dtype).view(shape)) for (name, shape, dtype), p in pieces])

    def close(self) -> None:
        """See `Channel.close`."""
        for peer in self._peers:
            peer.close()


def _connect(meeting: Meeting) -> socket.socket:
    """The policy may begin to listen a moment later."""
    until_s = time.monotonic() + JOIN_TIMEOUT_S
    while True:
        try:
            return socket.create_connection((meeting.address, meeting.port), timeout=JOIN_TIMEOUT_S)
        except ConnectionRefusedError:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.05)


def _read(peer: socket.socket, buffer: memoryview) -> None:
    while buffer:
        num_bytes = peer.recv_into(buffer)
        if not num_bytes:
            raise ConnectionError("the policy has left")
        buffer = buffer[num_bytes:]

"""The channels by name.

Both ends open a channel at one rendezvous. The policy's ranks send, the processes of the engines
receive at the same time, part by part, so that neither holds more than a few parts at once.
"""

from collections.abc import Mapping

from ur2.transfer.ipc import IpcChannel
from ur2.transfer.nccl import NcclChannel
from ur2.transfer.records import ChannelName
from ur2.transfer.tcp import TcpChannel

CHANNELS: Mapping[ChannelName, type[TcpChannel] | type[NcclChannel] | type[IpcChannel]] = {
    "nccl": NcclChannel,
    "tcp": TcpChannel,
    "ipc": IpcChannel,
}

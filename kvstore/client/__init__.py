"""The asyncio client and its blocking facade."""

from kvstore.client.client import Client, Location, NodeStatus, connect
from kvstore.client.key_value import KeyValue
from kvstore.client.options import ClientOptions
from kvstore.client.sync import SyncClient, connect_sync

__all__ = [
    "Client",
    "ClientOptions",
    "KeyValue",
    "Location",
    "NodeStatus",
    "SyncClient",
    "connect",
    "connect_sync",
]

"""A sharded, replicated, ordered key-value store.

>>> import kvstore
>>> async with kvstore.connect("127.0.0.1:7401") as kv:
...     await kv.put("user:1", b"Ada")

Importing this package is cheap: the client is loaded when it is first named.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kvstore.errors import (
    ClockAhead,
    DeadlineExceeded,
    DiskFull,
    Internal,
    InvalidArgument,
    KVError,
    NotLeader,
    Overloaded,
    ProtocolError,
    Refused,
    SessionExpired,
    Unavailable,
)

if TYPE_CHECKING:
    from kvstore.client import (
        Client,
        ClientOptions,
        KeyValue,
        Location,
        NodeStatus,
        SyncClient,
        connect,
        connect_sync,
    )

__version__ = "0.1.0"

__all__ = [
    "Client",
    "ClientOptions",
    "ClockAhead",
    "DeadlineExceeded",
    "DiskFull",
    "Internal",
    "InvalidArgument",
    "KVError",
    "KeyValue",
    "Location",
    "NodeStatus",
    "NotLeader",
    "Overloaded",
    "ProtocolError",
    "Refused",
    "SessionExpired",
    "SyncClient",
    "Unavailable",
    "__version__",
    "connect",
    "connect_sync",
]


def __getattr__(name: str) -> Any:
    """The client's names (PEP 562)."""
    if name in __all__:
        value = getattr(importlib.import_module("kvstore.client"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

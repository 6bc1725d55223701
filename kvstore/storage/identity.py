"""Whose data directory this is: the lock on it and the file that names its node.

A data directory belongs to one process at a time, and for life to one node of one cluster.
It has a random id of its own, its *data id*: a node that comes back with another one has lost
what it vouched for (see :mod:`kvstore.server.handshake`). The data ids of the peers that were
met are kept here as *pins*.

Everything in this module blocks; run it in a thread.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from crc32c import crc32c

from kvstore.errors import DataDirectoryError, Refused
from kvstore.ids import NodeId
from kvstore.storage.files import OsFiles, write_file_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FORMAT_VERSION = 1
IDENTITY_FILE = "identity.json"
LOCK_FILE = "lock"


@dataclass(frozen=True, slots=True)
class _Founding:
    """What is decided when a data directory is first used, and never changes."""

    cluster_id: str
    node_id: str
    data_id: int
    facts: dict[str, str]


class Identity:
    """A locked data directory. Invariant: ``pins`` holds only what is on the disk."""

    def __init__(
        self, data_dir: Path, lock_fd: int, founding: _Founding, pins: dict[NodeId, int]
    ) -> None:
        self.data_id: Final = founding.data_id
        """Random, 64 bits, never 0; made when the directory was first used."""
        self.pins: Mapping[NodeId, int] = pins
        """The data ids of the peers that were met; replaced, never changed in place."""
        self._data_dir = data_dir
        self._lock_fd: int | None = lock_fd
        self._founding = founding
        self._pinning = threading.Lock()

    def pin(self, node: NodeId, data_id: int) -> None:
        """Remember durably that ``node`` has the data directory ``data_id``.

        Raises:
            Refused: another one is remembered already.
            OSError: the disk fails or is full; it may be tried again.
        """
        with self._pinning:
            known = self.pins.get(node)
            if known is None:
                pins = {**self.pins, node: data_id}
                _save(self._data_dir, self._founding, pins)
                self.pins = pins
            elif known != data_id:
                raise Refused(f"node {node} has another data directory than before")

    def release(self) -> None:
        """Let another process have the directory."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None


def open_identity(
    data_dir: Path,
    *,
    cluster_id: str,
    node_id: NodeId,
    shards: int,
    facts: Mapping[str, str] | None = None,
) -> Identity:
    """Lock ``data_dir`` for this process and check whose it is; a new one becomes this node's.

    Args:
        data_dir: made if it is not there.
        cluster_id: of the configuration; must be what it was at the first start.
        node_id: likewise.
        shards: likewise.
        facts: more settings by name that must stay what they were at the first start.

    Raises:
        DataDirectoryError: in use by another process, someone else's, of a newer format or
            unreadable; one line that says what to do.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock_fd = _lock(data_dir)
    except OSError as error:
        raise DataDirectoryError(f"data directory {data_dir} cannot be used: {error}") from error
    try:
        wanted = {"shards": str(shards), **(facts or {})}
        founding, pins = _load_or_found(data_dir, cluster_id, node_id, wanted)
        _check(data_dir, founding, cluster_id, node_id, wanted)
    except BaseException:
        os.close(lock_fd)
        raise
    return Identity(data_dir, lock_fd, founding, pins)


def _lock(data_dir: Path) -> int:
    """Take the lock. The kernel drops it when the process ends, however it ends."""
    fd = os.open(data_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.truncate(fd, 0)
        os.write(fd, b"%d\n" % os.getpid())
    except BlockingIOError as error:
        holder = os.read(fd, 32).decode(errors="replace").strip()
        os.close(fd)
        raise DataDirectoryError(
            f"data directory {data_dir} is in use by another process (pid {holder or 'unknown'}); "
            "stop it first, or give this node a directory of its own"
        ) from error
    except OSError:
        os.close(fd)
        raise
    return fd


def _load_or_found(
    data_dir: Path, cluster_id: str, node_id: NodeId, facts: dict[str, str]
) -> tuple[_Founding, dict[NodeId, int]]:
    path = data_dir / IDENTITY_FILE
    try:
        if path.exists():
            return _decode(path.read_bytes())
        _check_is_empty(data_dir)
        founding = _Founding(cluster_id, node_id, secrets.randbits(64) or 1, facts)
        _save(data_dir, founding, {})
    except OSError as error:
        raise DataDirectoryError(f"{path} cannot be read or written: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise DataDirectoryError(
            f"{path} is damaged ({error}); restore it from a copy, or empty {data_dir} and let "
            "the cluster take this node for a new one"
        ) from error
    return founding, {}


def _check_is_empty(data_dir: Path) -> None:
    ours = {LOCK_FILE, IDENTITY_FILE + ".new"}
    others = sorted(entry.name for entry in data_dir.iterdir() if entry.name not in ours)
    if others:
        raise DataDirectoryError(
            f"data directory {data_dir} holds {others[0]} but no {IDENTITY_FILE}; "
            "give the node an empty directory, or restore the file"
        )


def _check(
    data_dir: Path, founding: _Founding, cluster_id: str, node_id: NodeId, facts: dict[str, str]
) -> None:
    then = {"cluster": founding.cluster_id, "node": founding.node_id, **founding.facts}
    now = {"cluster": cluster_id, "node": node_id, **facts}
    for name in now:
        if name in then and now[name] != then[name]:
            raise DataDirectoryError(
                f"data directory {data_dir} was made for {name} {then[name]}, the configuration "
                f"says {now[name]}; set it back, or give the node another directory"
            )


def _save(data_dir: Path, founding: _Founding, pins: Mapping[NodeId, int]) -> None:
    content = {
        "format": FORMAT_VERSION,
        "cluster_id": founding.cluster_id,
        "node_id": founding.node_id,
        "data_id": founding.data_id,
        "facts": founding.facts,
        "pins": dict(pins),
    }
    text = json.dumps(content | {"crc32c": _checksum(content)}, indent=2) + "\n"
    write_file_atomically(OsFiles(), data_dir / IDENTITY_FILE, text.encode())


def _decode(data: bytes) -> tuple[_Founding, dict[NodeId, int]]:
    content: dict[str, Any] = json.loads(data)
    if not isinstance(content, dict):
        raise TypeError("it is not an object")
    written = content["format"]
    if isinstance(written, int) and written > FORMAT_VERSION:
        raise DataDirectoryError(
            f"{IDENTITY_FILE} has format {written}, this version knows up to {FORMAT_VERSION}; "
            "start the node with the newer version that wrote it"
        )
    if content.pop("crc32c") != _checksum(content):
        raise ValueError("its checksum does not match")
    founding = _Founding(
        content["cluster_id"], content["node_id"], content["data_id"], content["facts"]
    )
    return founding, {NodeId(node): data_id for node, data_id in content["pins"].items()}


def _checksum(content: Mapping[str, Any]) -> int:
    """Over what is said, not over how it is laid out."""
    return int(crc32c(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()))

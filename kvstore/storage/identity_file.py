"""What ``identity.json`` says: whose data directory this is, in which life, and whom it met.

A directory has a random id of its own, its *data id*, and a *life*: 0 if it was founded with
the cluster, higher if ``kv repair`` made it (:mod:`kvstore.storage.renewal`). Both never
change. The file is replaced as a whole, and a checksum covers all that it says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from crc32c import crc32c

from kvstore.errors import DataDirectoryError
from kvstore.ids import LIFE_MAX, NodeId
from kvstore.storage.files import write_file_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from kvstore.storage.files import Files

FORMAT_VERSION: Final = 2
"""1 had neither lives nor the two facts that :class:`Content` ends with."""
IDENTITY_FILE: Final = "identity.json"


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose directory it is, and by which settings; it must stay what it was at first."""

    cluster_id: str
    node_id: str
    facts: Mapping[str, str] = field(default_factory=dict)
    """Settings by name that must not change under stored data."""


@dataclass(frozen=True, slots=True)
class Pin:
    """Which data directory a node has."""

    data_id: int
    life: int = 0


@dataclass(frozen=True, slots=True)
class Content:
    """The whole file."""

    owner: Owner
    own: Pin
    pins: Mapping[NodeId, Pin] = field(default_factory=dict)
    """The directories of the peers that were met."""
    log_begun: bool = False
    """There is a log: if it is not found, it was lost."""
    has_map: bool = False
    """There is a file of the shard map: if it is not found, it was lost."""
    setting_aside: str = ""
    """A repair is not finished: the old data is being moved to the directory of this name."""
    starts: int = 0
    """How many processes have begun to use the directory."""


def check_owner(data_dir: Path, then: Owner, now: Owner) -> None:
    """See whether the directory of ``then`` may be used by ``now``.

    Raises:
        DataDirectoryError: another cluster or node, or a setting that may not change.
    """
    before = {"cluster": then.cluster_id, "node": then.node_id, **then.facts}
    after = {"cluster": now.cluster_id, "node": now.node_id, **now.facts}
    for name in after:
        if name in before and after[name] != before[name]:
            raise DataDirectoryError(
                f"data directory {data_dir} was made for {name} {before[name]}, the "
                f"configuration says {after[name]}; set it back, or give the node another "
                "directory"
            )


def load(data_dir: Path) -> Content | None:
    """What the file in ``data_dir`` says, None if there is none.

    Raises:
        DataDirectoryError: it is damaged (then ``is_repairable``), cannot be read, or a newer
            version wrote it.
    """
    path = data_dir / IDENTITY_FILE
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataDirectoryError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        return decode(data)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DataDirectoryError(
            f"{path} is damaged ({error}); restore it from a copy, or repair the node",
            is_repairable=True,
        ) from error


def save(files: Files, data_dir: Path, content: Content) -> None:
    """Replace the file; durable.

    Raises:
        OSError: the old or the new content is there.
    """
    write_file_atomically(files, data_dir / IDENTITY_FILE, encode(content))


def encode(content: Content) -> bytes:
    """The file's bytes."""
    said = {
        "format": FORMAT_VERSION,
        "cluster_id": content.owner.cluster_id,
        "node_id": content.owner.node_id,
        "data_id": content.own.data_id,
        "life": content.own.life,
        "facts": dict(content.owner.facts),
        "pins": {node: [pin.data_id, pin.life] for node, pin in content.pins.items()},
        "log_begun": content.log_begun,
        "has_map": content.has_map,
        "setting_aside": content.setting_aside,
        "starts": content.starts,
    }
    return (json.dumps(said | {"crc32c": _checksum(said)}, indent=2) + "\n").encode()


def decode(data: bytes) -> Content:
    """The inverse of :func:`encode`; format 1 is read too.

    Raises:
        DataDirectoryError: of a newer format.
        KeyError, TypeError, ValueError, RecursionError: damaged.
    """
    said: dict[str, Any] = json.loads(data)
    if not isinstance(said, dict):
        raise TypeError("it is not an object")
    written = said["format"]
    if isinstance(written, int) and written > FORMAT_VERSION:
        raise DataDirectoryError(
            f"{IDENTITY_FILE} has format {written}, this version knows up to {FORMAT_VERSION}; "
            "start the node with the newer version that wrote it"
        )
    if said.pop("crc32c") != _checksum(said):
        raise ValueError("its checksum does not match")
    owner = Owner(said["cluster_id"], said["node_id"], said["facts"])
    if written == 1:
        pins = {NodeId(node): Pin(data_id) for node, data_id in said["pins"].items()}
        return Content(owner, Pin(said["data_id"]), pins)
    if not 0 <= said["life"] <= LIFE_MAX:
        raise ValueError(f"there is no life {said['life']}")
    return Content(
        owner,
        Pin(said["data_id"], said["life"]),
        {NodeId(node): Pin(*pin) for node, pin in said["pins"].items()},
        said["log_begun"],
        said.get("has_map", False),  # It was added later, like the number of starts.
        said["setting_aside"],
        said.get("starts", 0),
    )


def _checksum(said: Mapping[str, Any]) -> int:
    """Over what is said, not over how it is laid out."""
    return int(crc32c(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()))

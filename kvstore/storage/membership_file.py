"""What a node keeps of the membership over a restart: its incarnation, and whom it knew.

With it a restarted node begins in a higher incarnation than it ever had, so that what others
heard of its last life does not count against it, and finds them again even if none of its
seeds lives. Nothing rests on it: without the file, or with an old one, the node begins in a
lower incarnation and hears from the others how far it had come.

Everything in this module blocks; run it in a thread.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from crc32c import crc32c

from kvstore.ids import NodeId
from kvstore.storage.files import write_file_atomically
from kvstore.swim.claims import Claim, Metadata, State

if TYPE_CHECKING:
    from pathlib import Path

    from kvstore.storage.files import Files

log = logging.getLogger(__name__)

FORMAT_VERSION: Final = 1
MEMBERSHIP_FILE: Final = "membership.json"


@dataclass(frozen=True, slots=True)
class Remembered:
    """The whole file."""

    incarnation: int = 0
    """None in which the node has spoken is higher."""
    saved_ms: int = 0
    """When it was written, by the wall clock."""
    members: tuple[tuple[Claim, float], ...] = ()
    """Each other member, and for how many seconds it had been so by then."""


def load(path: Path) -> Remembered:
    """What ``path`` says; nothing if it is not there or cannot be used, which is logged."""
    try:
        return _decode(path.read_bytes())
    except FileNotFoundError:
        return Remembered()
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        log.warning("%s cannot be used, the membership is learned anew: %s", path, error)
        return Remembered()


def save(files: Files, path: Path, remembered: Remembered) -> None:
    """Replace the file; durable.

    Raises:
        OSError: the old or the new content is there.
    """
    said = {
        "format": FORMAT_VERSION,
        "incarnation": remembered.incarnation,
        "saved_ms": remembered.saved_ms,
        "members": [_row(claim, age_s) for claim, age_s in remembered.members],
    }
    write_file_atomically(files, path, json.dumps(said | {"crc32c": _checksum(said)}).encode())


def _row(claim: Claim, age_s: float) -> list[Any]:
    said = claim.metadata
    texts = None if said is None else [said.address, said.zone, said.weight, said.software]
    return [claim.node, claim.state.name, claim.incarnation, texts, claim.accuser, round(age_s, 3)]


def _decode(data: bytes) -> Remembered:
    said = json.loads(data)
    if said["format"] != FORMAT_VERSION:
        raise ValueError(f"it has format {said['format']}")
    if said.pop("crc32c") != _checksum(said):
        raise ValueError("its checksum does not match")
    members = tuple(_claim(*row) for row in said["members"])
    return Remembered(said["incarnation"], said["saved_ms"], members)


def _claim(
    node: str,
    state: str,
    incarnation: int,
    texts: list[Any] | None,
    accuser: str | None,
    age_s: float,
) -> tuple[Claim, float]:
    metadata = None if texts is None else Metadata(*texts)
    by = None if accuser is None else NodeId(accuser)
    return Claim(NodeId(node), State[state], incarnation, metadata, by), age_s


def _checksum(said: dict[str, Any]) -> int:
    return int(crc32c(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()))

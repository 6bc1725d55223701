"""The shard map that this node acts on, as it is kept over a restart: bytes of no meaning here.

::

    file = "KVMP" version:u8 crc:u32 body

All numbers are big-endian; ``crc`` is the CRC-32C of version and body. What stands before the
body stays as it is in every format, so that damage is told from a newer one.

It decides which groups a node has, and as which replica, so it is durable before anything is
done that it says, after a start too, and damage is refused. A node without the file acts on the
map that its configuration gives.

Everything in this module blocks; run it in a thread.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from crc32c import crc32c

from kvstore.errors import CorruptionError, DataDirectoryError, of_file
from kvstore.storage.files import is_loss, sync_directory, write_file_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from kvstore.storage.files import Files

FORMAT_VERSION: Final = 1
MAP_FILE: Final = "shard_map"

_MAGIC: Final = b"KVMP"
_HEAD: Final = struct.Struct(">4sBI")


def save(files: Files, data_dir: Path, body: bytes) -> None:
    """Replace the file; durable.

    Raises:
        OSError: the old or the new content is there.
    """
    head = _HEAD.pack(_MAGIC, FORMAT_VERSION, _checksum(FORMAT_VERSION, body))
    write_file_atomically(files, data_dir / MAP_FILE, head + body)


def confirm(files: Files, data_dir: Path) -> None:
    """What :func:`load` finds stays there, whatever comes.

    A process that was killed in :func:`save` may have left a file whose name the disk does not
    have yet. Whoever acts by that map and then loses power would come back to an older one, and
    begin anew as a replica that it was before.

    Raises:
        Internal: the disk fails.
    """
    sync_directory(files, data_dir)


def load(data_dir: Path) -> bytes | None:
    """What was saved last, None if nothing was.

    Raises:
        CorruptionError: damaged or lost; names file and offset.
        DataDirectoryError: of a newer format, or it may not be read.
    """
    path = data_dir / MAP_FILE
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        if is_loss(error):
            raise CorruptionError(f"cannot be read: {error}", file=str(path), offset=0) from error
        raise DataDirectoryError(f"the shard map cannot be read: {of_file(error, path)}") from error
    return _decode(data, str(path))


def _decode(data: bytes, file: str) -> bytes:
    if len(data) < _HEAD.size:
        raise CorruptionError("the shard map is cut short", file=file, offset=len(data))
    magic, version, crc = _HEAD.unpack_from(data)
    body = data[_HEAD.size :]
    if magic != _MAGIC:
        raise CorruptionError("this is no shard map", file=file, offset=0)
    if crc != _checksum(version, body):
        raise CorruptionError("the shard map is damaged", file=file, offset=len(_MAGIC))
    if version != FORMAT_VERSION:
        raise DataDirectoryError(
            f"{file} has format {version}, this version knows up to {FORMAT_VERSION}; start the "
            "node with the newer version that wrote it"
        )
    return body


def _checksum(version: int, body: bytes) -> int:
    return int(crc32c(body, crc32c(bytes((version,)))))

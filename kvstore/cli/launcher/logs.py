"""Reading a log file that may be growing."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from kvstore.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_PIECE_BYTES = 64 * 1024
_POLL_S = 0.2


def read(
    path: Path,
    *,
    lines: int | None = None,
    follow: bool = False,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[bytes]:
    """The log in pieces, or only its last ``lines`` lines; for ever when following.

    ``pause`` waits for some seconds, between two looks at a log that is followed.

    Raises:
        InvalidArgument: there is no log yet.
    """
    try:
        log = path.open("rb")
    except FileNotFoundError:
        raise InvalidArgument(f"there is no log yet: {path}") from None
    with log:
        if lines is not None:
            yield from deque(log, maxlen=lines)
        while True:
            while piece := log.read(_PIECE_BYTES):
                yield piece
            if not follow:
                return
            pause(_POLL_S)

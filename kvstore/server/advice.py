"""What a person may do about a node that stopped: a line without all that a repair imports."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from kvstore.errors import StartupError

if TYPE_CHECKING:
    from pathlib import Path


def advice(error: BaseException, config_file: Path | None = None) -> str:
    """What to add to the line about what stopped a node; empty if a repair is no answer."""
    if not (isinstance(error, StartupError) and error.is_repairable):
        return ""
    file = "FILE" if config_file is None else shlex.quote(str(config_file))
    return f" (to get its data again from the other nodes: kv repair --config {file})"

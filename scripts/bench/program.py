"""How each of the bench's commands ends: with its own exit code, or 1 and a sentence."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import uvloop

from kvstore.errors import KVError

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any


def exit_code_of(command: Coroutine[Any, Any, int]) -> int:
    """Run ``command`` to its end; what failed, or that it was stopped, goes to stderr."""
    try:
        return uvloop.run(command)
    except (KVError, OSError) as error:
        sys.stderr.write(f"failed: {error}\n")
        return 1
    except (asyncio.CancelledError, KeyboardInterrupt):
        sys.stderr.write("stopped\n")
        return 1

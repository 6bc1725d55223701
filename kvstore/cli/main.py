"""The entry point, so small that Ctrl-C during the imports ends quietly too."""

from __future__ import annotations

import sys

INTERRUPTED = 130


def main() -> int:
    """Run ``kv`` with the arguments of this process; the result is its exit code."""
    try:
        from kvstore.cli.app import run

        return run(sys.argv[1:])
    except KeyboardInterrupt:
        return INTERRUPTED

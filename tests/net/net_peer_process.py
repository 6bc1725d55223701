"""A node's listening side as a process of its own: run with a port (0 = any), prints the port."""

from __future__ import annotations

import asyncio
import sys

from net_harness import listening


async def main(port: int) -> None:
    async with listening(port=port) as node:
        print(node.server.port, flush=True)  # noqa: T201  the parent reads it
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))

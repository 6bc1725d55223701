"""The other end of the load's pipe."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elasticity.samples import Summary
from kvstore.errors import KVError, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ANSWER_WAIT_S = 120.0
END_WAIT_S = 5.0
SCRIPTS = Path(__file__).resolve().parent.parent


class Driver:
    """Tells one load process what to do. One question at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    async def ask(
        self, do: str, *, within_s: float = ANSWER_WAIT_S, **arguments: Any
    ) -> dict[str, Any]:
        """Have it done; what it says of it.

        Raises:
            KVError: it says that it has failed.
            Unavailable: it has ended, or does not answer.
        """
        writer, reader = self._process.stdin, self._process.stdout
        assert writer is not None
        assert reader is not None
        writer.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        try:
            async with asyncio.timeout(within_s):
                await writer.drain()
                line = await reader.readline()
        except (TimeoutError, ConnectionError) as error:
            raise Unavailable(f"the load does not answer ({do})") from error
        if not line:
            raise Unavailable(f"the load has ended by itself ({do})")
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise KVError(f"the load could not {do}: {answer['failed']}")
        return answer

    async def window(self, since: float, until: float) -> Summary:
        """What the operations came to that were due in this time, monotonic seconds."""
        return Summary.from_json(await self.ask("window", since=since, until=until))


@asynccontextmanager
async def running_load(endpoints: str, keys: int, rate: float) -> AsyncIterator[Driver]:
    """A load process at rest; it ends with the context, or with us."""
    paths = [str(SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "elasticity.load", endpoints, str(keys), f"{rate:g}"),
        stdin=PIPE,
        stdout=PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        start_new_session=True,
    )
    try:
        yield Driver(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), END_WAIT_S)
        except (TimeoutError, asyncio.CancelledError):
            process.kill()
            await process.wait()

"""What a figure depends on beside the store: the machine, and how quick its disk and network are.

A put costs at least one ``fdatasync`` and two round trips over loopback, from the client to the
leader and from there to a follower; so both are measured with the store, on the same day.
"""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
import sys
import tempfile
import time
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any, Final, cast

import kvstore
from bench.driver import surroundings
from kvstore.errors import Unavailable

FRAME_BYTES: Final = 300
"""A put of 256 B as it travels, and as it lies in the log."""
ROUNDS: Final = 2000
SYNCS: Final = 200
FILE_BYTES: Final = 4 << 20
WAIT_S: Final = 20.0


async def facts(directory: Path | None = None) -> dict[str, Any]:
    """Of this machine; ``directory`` is on the disk in question, by default the temporary one's.

    Raises:
        Unavailable: the process that sends back what it gets does not.
    """
    return {
        "cores": os.cpu_count(),
        "cpu": cpu_model(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "kvstore": kvstore.__version__,
        "fdatasync_ms": 1000 * fdatasync_s(directory),
        "round_trip_ms": 1000 * await round_trip_s(),
    }


def sentence(facts: dict[str, Any]) -> str:
    """The same for people."""
    return (
        f"{facts['cores']} cores ({facts['cpu']}), {facts['kernel']}, Python {facts['python']}, "
        f"kvstore {facts['kvstore']}; one fdatasync {facts['fdatasync_ms']:.2f} ms, one round trip "
        f"over loopback {facts['round_trip_ms']:.3f} ms (medians)"
    )


def cpu_model() -> str:
    """As the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def fdatasync_s(directory: Path | None = None) -> float:
    """The median of appends to a file with room, each made durable."""
    with tempfile.NamedTemporaryFile(dir=directory, prefix="kvstore-bench-") as file:
        fd = file.fileno()
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, FILE_BYTES)
        os.fsync(fd)
        data, took_s = os.urandom(FRAME_BYTES), []
        sync = getattr(os, "fdatasync", os.fsync)
        for turn in range(SYNCS):
            os.pwrite(fd, data, turn * FRAME_BYTES)
            began = time.perf_counter()
            sync(fd)
            took_s.append(time.perf_counter() - began)
    return statistics.median(took_s)


class _Caller(asyncio.Protocol):
    """Sends a frame, waits until all of it is back, and again."""

    def __init__(self) -> None:
        self.took_s: list[float] = []
        self.is_done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._frame = os.urandom(FRAME_BYTES)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._missing -= len(data)
        if self._missing > 0:
            return
        self.took_s.append(time.perf_counter() - self._began)
        if len(self.took_s) < ROUNDS:
            self._send()
        elif not self.is_done.done():
            self.is_done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.is_done.done():
            self.is_done.set_exception(error or ConnectionError("the other end has closed"))

    def _send(self) -> None:
        self._missing, self._began = FRAME_BYTES, time.perf_counter()
        self._transport.write(self._frame)


async def round_trip_s() -> float:
    """The median of round trips of a frame over loopback, to another process and back.

    Raises:
        Unavailable: it does not answer.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.echo"),
        stdin=PIPE,
        stdout=PIPE,
        env=surroundings(),
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(WAIT_S):
            port = int(await process.stdout.readline())
            loop = asyncio.get_running_loop()
            transport, caller = await loop.create_connection(_Caller, "127.0.0.1", port)
            try:
                await caller.is_done
            finally:
                transport.close()
    except (OSError, ValueError) as error:
        raise Unavailable(f"loopback could not be measured: {error}") from error
    finally:
        process.kill()
        await process.wait()
    return statistics.median(caller.took_s)

"""Other people's programs: started, waited for, and ended by their own process ids."""

from __future__ import annotations

import asyncio
import random
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, TypeAlias

from bench.driver import surroundings
from kvstore.cli.launcher.ports import free_base_port, ports_of
from kvstore.errors import KVError, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

Out: TypeAlias = "int | IO[bytes]"

END_WAIT_S: Final = 5.0
START_WAIT_S: Final = 30.0
POLL_S: Final = 0.05
SAID_CHARS_MAX: Final = 300
"""Of a program's words, in an error."""


def free_ports(pairs: int) -> list[int]:
    """Twice so many ports of the loopback that nobody uses.

    Raises:
        StartupError: there are none.
    """
    return ports_of(free_base_port(pairs, random.SystemRandom()), pairs)


@dataclass(frozen=True, slots=True)
class Program:
    """One that goes on until it is ended."""

    name: str
    process: asyncio.subprocess.Process
    log: Path
    """What it says."""

    @property
    def pid(self) -> int:
        """Of its process."""
        return self.process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it has, by itself."""
        return self.process.returncode is not None

    def last_words(self) -> str:
        """The end of its log."""
        return in_short(self.log.read_text(errors="replace")) or "it says nothing"


@asynccontextmanager
async def running(
    name: str, *command: str, directory: Path, is_asked: bool = False
) -> AsyncIterator[Program]:
    """A program that ends with the context, or with us; its log lies in its directory.

    One that is asked reads questions from a pipe, and answers on another.

    Raises:
        KVError: it cannot be started.
    """
    path = directory / f"{name}.log"
    with path.open("wb") as log:
        stdin, stdout = (PIPE, PIPE) if is_asked else (DEVNULL, log)
        process = await _start(command, stdin, stdout, log, directory)
    try:
        yield Program(name, process, path)
    finally:
        await end(process)


async def finished(*command: str, wait_s: float) -> str:
    """What a program has printed that ends by itself.

    Raises:
        KVError: it cannot be started, or says that it has failed.
        Unavailable: it has not ended in time.
    """
    process = await _start(command, DEVNULL, PIPE, STDOUT)
    try:
        said, _ = await asyncio.wait_for(process.communicate(), wait_s)
    except TimeoutError:
        raise Unavailable(f"{command[0]} has not ended after {wait_s:.0f} s") from None
    finally:
        if process.returncode is None:
            await _kill(process)
    text = said.decode(errors="replace")
    if process.returncode:
        raise KVError(f"{command[0]} ended with {process.returncode}: {in_short(text)}")
    return text


async def end(process: asyncio.subprocess.Process) -> None:
    """Ask the process to end, and have it ended if it does not."""
    try:
        with suppress(ProcessLookupError):
            process.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), END_WAIT_S)
    finally:
        if process.returncode is None:
            await _kill(process)


async def until(
    holds: Callable[[], Awaitable[bool]], programs: Sequence[Program], wait_s: float = START_WAIT_S
) -> None:
    """Wait until the programs are ready.

    Raises:
        Unavailable: one has ended, or it takes too long; with the end of what it says.
    """
    deadline = time.monotonic() + wait_s
    while not await holds():
        if ended := [program for program in programs if program.has_ended]:
            raise Unavailable(f"{ended[0].name} has ended: {ended[0].last_words()}")
        if time.monotonic() > deadline:
            one = programs[0]
            raise Unavailable(f"{one.name} is not ready in {wait_s:g} s: {one.last_words()}")
        await asyncio.sleep(POLL_S)


def in_short(said: str) -> str:
    """The end of it, on one line."""
    return " ".join(said.split())[-SAID_CHARS_MAX:]


async def _start(
    command: Sequence[str], stdin: int, stdout: Out, stderr: Out, directory: Path | None = None
) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=directory,
            env=surroundings(),
            start_new_session=True,  # Ctrl-C is for us; we end it
        )
    except OSError as error:
        raise KVError(f"{command[0]} cannot be started: {error.strerror}") from error


async def _kill(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()

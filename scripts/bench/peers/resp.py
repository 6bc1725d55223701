"""As much of Redis's protocol as is needed to prepare it and to ask it (RESP2)."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kvstore.cli.launcher.ports import HOST
from kvstore.errors import KVError, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ANSWER_WAIT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Redis:
    """A connection. One question at a time."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, *parts: bytes) -> bytes:
        """The answer to a command that is answered by one string.

        Raises:
            KVError: it is refused.
            Unavailable: there is no answer.
        """
        try:
            async with asyncio.timeout(ANSWER_WAIT_S):
                self.writer.write(encoded(*parts))
                await self.writer.drain()
                return await self._answer()
        except (OSError, EOFError, TimeoutError) as error:
            raise Unavailable(f"redis does not answer {parts[0].decode()}") from error

    async def _answer(self) -> bytes:
        kind, rest = _split(await self.reader.readuntil(b"\r\n"))
        if kind == b"-":
            raise KVError(f"redis: {rest.decode()}")
        if kind == b"$" and int(rest) >= 0:
            return (await self.reader.readexactly(int(rest) + 2))[:-2]
        return rest


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Redis]:
    """A connection to a server of this machine.

    Raises:
        Unavailable: nobody listens there.
    """
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(HOST, port), ANSWER_WAIT_S)
    except (OSError, TimeoutError) as error:
        raise Unavailable(f"redis at {HOST}:{port} does not answer: {error}") from error
    try:
        yield Redis(reader, writer)
    finally:
        writer.close()


def encoded(*parts: bytes) -> bytes:
    """A command."""
    strings = b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
    return b"*%d\r\n%b" % (len(parts), strings)


def info_of(said: bytes) -> dict[str, dict[str, str]]:
    """What ``INFO`` says, by name; plain values are under the empty name."""
    read = {}
    for line in said.decode().splitlines():
        name, colon, value = line.partition(":")
        if colon:
            pairs = (part.partition("=") for part in value.split(","))
            read[name] = {key if is_named else "": val or key for key, is_named, val in pairs}
    return read


def _split(line: bytes) -> tuple[bytes, bytes]:
    return line[:1], line[1:-2]

"""Something asked of one node, not of a shard: its shard map, its status."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kvstore.errors import KVError, copy_of
from kvstore.wire.kinds import Kind
from kvstore.wire.requests import decode_error

if TYPE_CHECKING:
    from kvstore.client.link import Link
    from kvstore.wire.frames import Frame


async def ask(link: Link, kind: Kind, request: int) -> bytes:
    """Send a request without a body over an open link and return the answer's body.

    The caller bounds the time; leaving early leaves nothing behind.

    Raises:
        KVError: the node refused, or the connection ended.
    """
    question = _Question()
    link.send(kind, request, b"", question)
    try:
        return await question.answer
    finally:
        link.forget(request)
        del question  # it holds the error that is raised, which holds this frame


class _Question:
    """See :class:`~kvstore.client.link.Waiter`."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def answered(self, link: Link, frame: Frame) -> None:
        if self.answer.done():
            return
        if frame.kind == Kind.REPLY:
            self.answer.set_result(frame.body)
            return
        try:
            error = decode_error(frame.body)
        except KVError as malformed:
            error = copy_of(malformed)  # the original holds this frame
        self.answer.set_exception(error)

    def lost(self, link: Link, request: int, error: KVError) -> None:
        if not self.answer.done():
            self.answer.set_exception(copy_of(error))

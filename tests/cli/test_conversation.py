"""Asking one node: it may be slow as long as it lives, and is given up when it does not."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from kvstore.cli.conversation import Conversation
from kvstore.errors import KVError, Overloaded, Refused, Unavailable
from kvstore.ids import NodeId, Revision
from kvstore.wire.frames import Frame, FrameDecoder, encode_frame
from kvstore.wire.hello import Welcome, encode_welcome
from kvstore.wire.kinds import Kind
from kvstore.wire.requests import encode_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DEADLINE_S = 20.0


class FakeNode:
    """Shakes hands; what it does with questions and pings a test decides."""

    def __init__(self) -> None:
        self.connections = 0
        self.pings = 0
        self.answers_after_pings = 0
        """Questions are answered only then."""
        self.is_frozen = False
        self.hangs_up = False
        self.refusal: KVError | None = None
        self.error: KVError | None = None
        self._held: list[Frame] = []

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield "{}:{}".format(*server.sockets[0].getsockname())
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        decoder = FrameDecoder(1 << 20)
        try:
            while data := await reader.read(1 << 16):
                for frame in decoder.feed(data):
                    self._take(frame, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    def _take(self, frame: Frame, writer: asyncio.StreamWriter) -> None:
        if frame.kind == Kind.HELLO:
            self._welcome(writer)
        elif self.hangs_up:
            writer.close()
        elif not self.is_frozen:
            if frame.kind == Kind.PING:
                self.pings += 1
                writer.write(encode_frame(Kind.PONG, frame.request, b""))
            else:
                self._held.append(frame)
            if self.pings >= self.answers_after_pings:
                self._answer(writer)

    def _welcome(self, writer: asyncio.StreamWriter) -> None:
        if self.refusal is not None:
            writer.write(encode_frame(Kind.ERROR, 0, encode_error(self.refusal)))
            return
        welcome = Welcome("c", NodeId("n1"), 1, 1_700_000_000_000, Revision(1), "fake")
        writer.write(encode_frame(Kind.WELCOME, 0, encode_welcome(welcome)))

    def _answer(self, writer: asyncio.StreamWriter) -> None:
        for frame in reversed(self._held):
            if self.error is not None:
                writer.write(encode_frame(Kind.ERROR, frame.request, encode_error(self.error)))
            else:
                writer.write(encode_frame(Kind.REPLY, frame.request, b"re:" + frame.body))
        self._held.clear()


@asynccontextmanager
async def talking(node: FakeNode, answer_wait_s: float = 5.0) -> AsyncIterator[Conversation]:
    async with node.listening() as address, asyncio.timeout(DEADLINE_S):
        conversation = Conversation(address, answer_wait_s=answer_wait_s)
        try:
            yield conversation
        finally:
            conversation.close()


async def test_questions_share_a_connection_and_get_their_own_answers() -> None:
    node = FakeNode()
    async with talking(node) as conversation:
        asked = [conversation.ask(Kind.CHECKSUM, b"%d" % number) for number in range(5)]
        assert await asyncio.gather(*asked) == [b"re:%d" % number for number in range(5)]
        assert node.connections == 1


async def test_an_error_is_raised_and_the_connection_stays() -> None:
    node = FakeNode()
    async with talking(node) as conversation:
        node.error = Overloaded("too much")
        with pytest.raises(Overloaded, match="too much"):
            await conversation.ask(Kind.STATUS)
        node.error = None
        assert await conversation.ask(Kind.STATUS) == b"re:"
        assert node.connections == 1


async def test_a_node_that_answers_pings_may_take_its_time() -> None:
    node = FakeNode()
    node.answers_after_pings = 4
    async with talking(node, answer_wait_s=0.5) as conversation:
        assert await conversation.ask(Kind.CHECKSUM, b"large") == b"re:large"
    assert node.connections == 1


async def test_a_node_that_gives_no_sign_of_life_is_given_up_and_asked_anew() -> None:
    node = FakeNode()
    async with talking(node, answer_wait_s=0.2) as conversation:
        node.is_frozen = True
        lost = await asyncio.gather(
            *(conversation.ask(Kind.STATUS) for _ in range(3)), return_exceptions=True
        )
        assert [type(error) for error in lost] == [Unavailable] * 3
        assert "no answer within 0.2 s" in str(lost[0])
        node.is_frozen = False
        assert await conversation.ask(Kind.STATUS) == b"re:"
        assert node.connections == 2


async def test_a_connection_that_ends_tells_who_waits() -> None:
    node = FakeNode()
    node.hangs_up = True
    async with talking(node) as conversation:
        with pytest.raises(Unavailable):
            await conversation.ask(Kind.STATUS)


async def test_closing_tells_who_waits() -> None:
    node = FakeNode()
    node.answers_after_pings = 1000
    async with talking(node) as conversation:
        asking = asyncio.create_task(conversation.ask(Kind.STATUS))
        while not node._held:  # noqa: ASYNC110  the fake node sets no event
            await asyncio.sleep(0.001)
        conversation.close()
        with pytest.raises(Unavailable):
            await asking


async def test_after_a_refusal_the_next_attempt_waits_and_its_askers_do_not() -> None:
    node = FakeNode()
    node.refusal = Refused("wrong cluster")
    async with talking(node) as conversation:
        for _ in range(20):
            with pytest.raises(Refused, match="wrong cluster"):
                await conversation.ask(Kind.STATUS)
        assert node.connections < 20


async def test_where_nobody_listens() -> None:
    async with FakeNode().listening() as address:
        pass
    conversation = Conversation(address)
    with pytest.raises(Unavailable, match="refused"):
        await conversation.ask(Kind.STATUS)
    conversation.close()

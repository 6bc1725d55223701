"""Whatever a stranger sends to a listening node: a clear answer, and nobody else notices."""

from __future__ import annotations

import asyncio
import errno
import random
import struct
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from net_harness import (
    CLIENT,
    DEADLINE_S,
    LIMITS,
    PEER,
    Client,
    Node,
    error_of,
    hello_frame,
    listening,
    raw,
    read_frame,
    until,
    within,
)

from kvstore import errors
from kvstore.ids import NodeId
from kvstore.net.repeats import LINES_AT_ONCE
from kvstore.wire.codec import pack
from kvstore.wire.frames import encode_frame
from kvstore.wire.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kvstore.net.connection import FrameConnection
    from kvstore.net.limits import NetLimits


@asynccontextmanager
async def undisturbed(limits: NetLimits = LIMITS) -> AsyncIterator[Node]:
    """A node with a bystander whose connection must survive whatever the test does."""
    async with listening(limits) as node:
        bystander = Client()
        await bystander.connect(node)
        assert await bystander.is_served()
        yield node
        assert await bystander.is_served()
        assert bystander.connection.is_open
        await until(lambda: node.server.connection_count == 1)
        bystander.connection.close()
        await within(bystander.connection.wait_closed())


BAD_STREAMS = {
    "a web browser": (b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", "frame length 1195725856"),
    "a length of zero": (struct.pack(">I", 0), "frame length 0"),
    "a length too short for a header": (struct.pack(">I", 9), "frame length 9"),
    "a length of four gigabytes": (b"\xff\xff\xff\xff", "frame length 4294967295"),
    "more than a stranger may send": (struct.pack(">I", 4097), "not within 10 to 4096"),
}


@pytest.mark.parametrize("name", BAD_STREAMS)
async def test_no_frames_at_all(name: str) -> None:
    data, why = BAD_STREAMS[name]
    async with undisturbed() as node, raw(node) as stranger:
        stranger.send(data)
        (frame,) = await stranger.ending()
        error = error_of(frame)
        assert (type(error), frame.request) == (errors.ProtocolError, 0)
        assert why in error.message


@pytest.mark.parametrize("length", [9, 1 + (1 << 20), 2**32 - 1])
async def test_a_false_length_after_the_handshake(length: int) -> None:
    async with undisturbed() as node, raw(node) as guest:
        await guest.shake_hands()
        guest.send(read_frame(1, b"before") + struct.pack(">I", length))
        assert (await guest.frame()).request == 1
        (frame,) = await guest.ending()
        assert f"frame length {length}" in error_of(frame).message


async def test_random_bytes() -> None:
    rng = random.Random(20)
    async with undisturbed() as node:
        for size in (1, 3, 4, 13, 14, 15, 1000, 100_000):
            async with raw(node) as stranger:
                stranger.send(b"\xff" + rng.randbytes(size))
                stranger.writer.write_eof()
                for frame in await stranger.ending():
                    assert isinstance(error_of(frame), errors.ProtocolError)


async def test_megabytes_of_garbage_do_not_hide_the_answer() -> None:
    """With bytes left unread a hasty close would reset the connection and lose the reason."""
    async with undisturbed() as node, raw(node) as stranger:
        for _ in range(40):
            stranger.send(b"\xff" * 100_000)
        (frame,) = await stranger.ending()
        assert "frame length" in error_of(frame).message


async def test_who_is_told_to_go_and_stays_is_cut_off() -> None:
    limits = replace(LIMITS, linger_s=0.05)
    async with undisturbed(limits) as node, raw(node) as stranger:
        stranger.send(b"\xff" * 100)
        assert isinstance(error_of(await stranger.frame()), errors.ProtocolError)
        await until(lambda: node.server.connection_count == 1)
        assert not stranger.writer.is_closing()


async def test_silence_instead_of_a_hello() -> None:
    limits = replace(LIMITS, hello_timeout_s=0.25)
    async with undisturbed(limits) as node, raw(node) as stranger:
        (frame,) = await stranger.ending()
        assert error_of(frame).message == "no hello within 0.25 s"


@pytest.mark.parametrize("sent", [1, 4, 14, 30])
async def test_half_a_hello_then_silence(sent: int) -> None:
    limits = replace(LIMITS, hello_timeout_s=0.25)
    async with undisturbed(limits) as node, raw(node) as stranger:
        stranger.send(hello_frame()[:sent])
        (frame,) = await stranger.ending()
        assert error_of(frame).message == "no hello within 0.25 s"


@pytest.mark.parametrize("sent", [1, 4, 14, 20])
async def test_half_a_frame_then_silence(sent: int) -> None:
    limits = replace(LIMITS, frame_timeout_s=0.05)
    async with undisturbed(limits) as node, raw(node) as guest:
        await guest.shake_hands()
        guest.send(read_frame(1, b"key") + read_frame(2, b"key")[:sent])
        assert (await guest.frame()).request == 1
        (frame,) = await guest.ending()
        assert "begun and not completed within 0.05 s" in error_of(frame).message


async def test_a_frame_that_drips_in_forever() -> None:
    limits = replace(LIMITS, frame_timeout_s=0.1)
    async with undisturbed(limits) as node, raw(node) as guest:
        await guest.shake_hands()
        guest.send(struct.pack(">IBBQ", 100_000, Kind.READ, 0, 1))

        async def drip() -> None:
            while True:
                guest.send(b"x")
                await asyncio.sleep(0.005)

        dripping = asyncio.create_task(drip())
        (frame,) = await guest.ending()
        dripping.cancel()
        assert "not completed within 0.1 s" in error_of(frame).message


async def test_silence_between_frames_is_no_offence() -> None:
    limits = replace(LIMITS, frame_timeout_s=0.03, stall_timeout_s=0.03, hello_timeout_s=0.25)
    async with listening(limits) as node, raw(node) as guest, raw(node) as stranger:
        await guest.shake_hands()
        guest.send(read_frame(1, b"key"))
        assert (await guest.frame()).request == 1
        await stranger.ending()  # thrown out for its silence, which a guest is not
        guest.send(read_frame(2, b"key"))
        assert (await guest.frame()).request == 2


FIRST_MESSAGES: dict[str, tuple[bytes, type[errors.KVError], str]] = {
    "a request": (read_frame(1, b"key"), errors.ProtocolError, "first message must be a hello"),
    "a ping": (encode_frame(Kind.PING, 1, b""), errors.ProtocolError, "must be a hello"),
    "an error": (encode_frame(Kind.ERROR, 0, b""), errors.ProtocolError, "must be a hello"),
    "an unknown kind": (encode_frame(200, 1, b""), errors.ProtocolError, "not of kind 200"),
    "an empty hello": (encode_frame(Kind.HELLO, 0, b""), errors.ProtocolError, "msgpack"),
    "a deep hello": (
        encode_frame(Kind.HELLO, 0, b"\x91" * 4000), errors.ProtocolError, "StackError"),
    "a hello of garbage": (
        encode_frame(Kind.HELLO, 0, b"\xc1\xff"), errors.ProtocolError, "FormatError"),
    "a hello with a false array": (
        encode_frame(Kind.HELLO, 0, b"\xdd\xff\xff\xff\xff"), errors.ProtocolError, "max_array"),
    "a newer protocol": (
        hello_frame(replace(CLIENT, protocol_min=2, protocol_max=3)), errors.Refused,
        "you speak 2 to 3, this node speaks 1"),
    "a newer protocol of another form": (
        encode_frame(Kind.HELLO, 0, pack([7, 9, {}])), errors.Refused, "you speak 7 to 9"),
    "a node of another cluster": (
        hello_frame(replace(PEER, cluster_id="away")), errors.Refused,
        "this is cluster home, not away"),
    "a client that expects another cluster": (
        hello_frame(replace(CLIENT, cluster_id="away")), errors.Refused, "not away"),
}  # fmt: skip


@pytest.mark.parametrize("name", FIRST_MESSAGES)
async def test_a_first_message_that_is_no_welcome_hello(name: str) -> None:
    data, kind, why = FIRST_MESSAGES[name]
    async with undisturbed() as node, raw(node) as stranger:
        stranger.send(data + read_frame(5, b"key"))
        (frame,) = await stranger.ending()
        error = error_of(frame)
        assert (type(error), frame.request) == (kind, 0)
        assert why in error.message
        assert [frame.request for frame in node.received] == [1]  # the bystander's alone


async def test_a_second_hello() -> None:
    async with undisturbed() as node, raw(node) as guest:
        await guest.shake_hands()
        guest.send(hello_frame())
        (frame,) = await guest.ending()
        assert error_of(frame).message == "a second handshake on one connection"


BAD_REQUESTS: dict[str, tuple[bytes, str]] = {
    "an unknown kind": (encode_frame(99, 7, b"what"), "unknown message kind 99"),
    "a kind that is kept free": (encode_frame(7, 7, b""), "unknown message kind 7"),
    "unknown flags": (encode_frame(Kind.READ, 7, b"", flags=1), "unknown frame flags 0x1"),
    "an empty body": (encode_frame(Kind.READ, 7, b""), "malformed request"),
    "a garbage body": (encode_frame(Kind.READ, 7, b"\xc1" * 99), "malformed request"),
    "half a body": (encode_frame(Kind.READ, 7, read_frame(7, b"key")[14:-3]), "malformed"),
    "a body and more": (encode_frame(Kind.READ, 7, read_frame(7, b"k")[14:] + b"\0"), "ExtraData"),
    "a deep body": (encode_frame(Kind.READ, 7, b"\x91" * 100_000), "StackError"),
    "an array that promises much": (
        encode_frame(Kind.READ, 7, b"\xdd\xff\xff\xff\xff" * 1000), "incomplete input"),
    "a million empty arrays": (
        encode_frame(Kind.READ, 7, b"\xdc\x0f\xff" + b"\x90" * 1_000_000), "more than 2 arrays"),
    "too many keys": (encode_frame(Kind.READ, 7, pack([0, 0, 0, [b"k"] * 5000, 0])), "max_array"),
    "an empty key": (encode_frame(Kind.READ, 7, pack([0, 0, 0, [b""], 0])), "none of them empty"),
    "wrong types": (encode_frame(Kind.READ, 7, pack(["0", 0, 0, [b"k"], 0])), "field 0 must be"),
    "an extension type": (encode_frame(Kind.READ, 7, b"\xd4\x05\x00"), "malformed request"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_REQUESTS)
async def test_a_bad_request_is_answered_and_the_connection_stays(name: str) -> None:
    data, why = BAD_REQUESTS[name]
    async with undisturbed() as node, raw(node) as guest:
        await guest.shake_hands()
        guest.send(read_frame(6, b"key") + data + read_frame(8, b"key"))
        before, answer, after = await guest.frames(3)
        assert (before.kind, before.request) == (Kind.REPLY, 6)
        error = error_of(answer)
        assert (type(error), answer.request) == (errors.InvalidArgument, 7)
        assert why in error.message
        assert (after.kind, after.request) == (Kind.REPLY, 8)


async def test_a_handler_that_fails_costs_only_that_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with undisturbed() as node, raw(node) as guest:
        await guest.shake_hands()
        original = node.server._on_frames
        culprit = node.guests[-1]

        def fail(connection: Any, frames: Any) -> None:
            raise ZeroDivisionError("a bug")

        culprit._on_frames = fail
        guest.send(read_frame(1, b"key"))
        (frame,) = await guest.ending()
        error = error_of(frame)
        assert type(error) is errors.Internal
        assert "a bug" not in error.message
        assert "ZeroDivisionError: a bug" in caplog.text
        assert node.server._on_frames is original


async def test_who_asks_and_does_not_read_is_cut_off() -> None:
    limits = replace(LIMITS, stall_timeout_s=0.2)
    async with undisturbed(limits) as node, raw(node) as guest:
        await guest.shake_hands()
        guest.writer.transport.pause_reading()
        question = read_frame(1, *[bytes(200)] * 1000)
        connection = node.guests[-1]
        while connection.is_open:
            guest.send(question)
            assert connection.held_bytes <= LIMITS.outbound_bytes_max + LIMITS.frame_bytes_max
            await asyncio.sleep(0)
            if guest.writer.transport.get_write_buffer_size() > 1 << 20:
                await until(lambda: not connection.is_open)
        assert isinstance(connection.reason, errors.Overloaded)
        assert connection.is_ours


async def test_who_is_sent_more_than_the_bound_is_cut_off() -> None:
    async with undisturbed() as node, raw(node) as guest:
        await guest.shake_hands()
        guest.writer.transport.pause_reading()
        connection = node.guests[-1]
        push = encode_frame(Kind.REPLY, 1, bytes(100_000))
        pushes = 0
        while connection.send(push):
            pushes += 1
            assert pushes < 1000
            if pushes % 5 == 0:
                await asyncio.sleep(0)
        assert isinstance(connection.reason, errors.Overloaded)
        await until(lambda: connection in node.closed)


async def test_a_slow_reader_that_catches_up_is_heard_again() -> None:
    async with undisturbed() as node, raw(node) as guest:
        await guest.shake_hands()
        guest.writer.transport.pause_reading()
        connection = node.guests[-1]
        for request in range(60):
            guest.send(read_frame(request, *[bytes(200)] * 1000))
        assert connection._transport is not None
        transport = connection._transport
        await until(lambda: not transport.is_reading())
        assert len(node.received) < 60
        guest.writer.transport.resume_reading()
        replies = await guest.frames(60)
        assert [frame.request for frame in replies] == list(range(60))


async def test_an_answer_too_large_for_a_frame_becomes_an_error() -> None:
    async with undisturbed() as node, raw(node) as guest:
        await guest.shake_hands()
        largest = (1 << 20) - 10
        node.guests[-1].send(encode_frame(Kind.REPLY, 1, bytes(largest)))
        node.guests[-1].send(encode_frame(Kind.REPLY, 2, bytes(largest + 1)))
        fits, too_large = await guest.frames(2)
        assert (fits.kind, len(fits.body)) == (Kind.REPLY, largest)
        assert too_large.request == 2
        assert "ask for less at once" in error_of(too_large).message


async def test_too_many_clients_are_told_so_and_peers_still_come_in() -> None:
    limits = replace(LIMITS, connections_max=3)
    async with undisturbed(limits) as node, raw(node) as second, raw(node) as third:
        assert (await second.shake_hands()).kind == Kind.WELCOME
        assert (await third.shake_hands()).kind == Kind.WELCOME
        async with raw(node) as fourth:
            error = error_of(await fourth.shake_hands())
            assert isinstance(error, errors.Overloaded)
            assert error.retryable
        async with raw(node) as peer:
            assert (await peer.shake_hands(PEER)).kind == Kind.WELCOME
        second.send(encode_frame(Kind.GOODBYE, 0, b""))
        assert await second.ending() == []
        async with raw(node) as fourth:
            assert (await fourth.shake_hands()).kind == Kind.WELCOME


async def test_too_many_peers_are_told_so_and_those_who_are_known_still_come_in() -> None:
    limits = replace(LIMITS, peers_max=2)
    n2, n3, n4 = (replace(PEER, node_id=NodeId(node)) for node in ("n2", "n3", "n4"))
    async with undisturbed(limits) as node, raw(node) as second, raw(node) as third:
        assert (await second.shake_hands(n2)).kind == Kind.WELCOME
        assert (await third.shake_hands(n3)).kind == Kind.WELCOME
        async with raw(node) as fourth:
            error = error_of(await fourth.shake_hands(n4))
            assert isinstance(error, errors.Overloaded)
            assert error.message == "this node has 2 peers, as many as it may"
        async with raw(node) as again, raw(node) as other_lane:
            assert (await again.shake_hands(n2)).kind == Kind.WELCOME
            assert await second.ending() == []
            assert (await other_lane.shake_hands(replace(n2, lane=1))).kind == Kind.WELCOME
        await until(lambda: node.server.connection_count == 2)
        async with raw(node) as fourth:
            assert (await fourth.shake_hands(n4)).kind == Kind.WELCOME
        await until(lambda: node.server.connection_count == 2)


async def test_a_flood_of_silent_connections_keeps_nobody_out() -> None:
    limits = replace(LIMITS, handshakes_max=8)
    async with undisturbed(limits) as node, AsyncExitStack() as flood:
        strangers = [await flood.enter_async_context(raw(node)) for _ in range(50)]
        await until(lambda: node.server.connection_count <= 9)
        for stranger in strangers[: 50 - 8]:
            (frame,) = await stranger.ending()
            assert isinstance(error_of(frame), errors.Overloaded)
        async with raw(node) as peer:
            assert (await peer.shake_hands(PEER)).kind == Kind.WELCOME


async def test_who_was_turned_away_and_stays_makes_way_for_others() -> None:
    limits = replace(LIMITS, handshakes_max=8, linger_s=2 * DEADLINE_S)
    turned_away: set[FrameConnection] = set()
    async with undisturbed(limits) as node, AsyncExitStack() as flood:
        for _ in range(50):
            stranger = await flood.enter_async_context(raw(node))
            frame = await stranger.shake_hands(replace(CLIENT, cluster_id="away"))
            assert frame.kind == Kind.ERROR
            turned_away |= set(node.server._strangers)
        assert len(turned_away) == 50
        await until(lambda: sum(not each.closed.done() for each in turned_away) <= 8)


async def test_connections_of_peers_are_bounded_and_one_may_take_the_place_of_another() -> None:
    limits = replace(LIMITS, peer_connections_max=2)
    lanes = [replace(PEER, lane=lane) for lane in range(3)]
    async with undisturbed(limits) as node, AsyncExitStack() as several:
        guests = [await several.enter_async_context(raw(node)) for _ in range(4)]
        assert (await guests[0].shake_hands(lanes[0])).kind == Kind.WELCOME
        assert (await guests[1].shake_hands(lanes[1])).kind == Kind.WELCOME
        error = error_of(await guests[2].shake_hands(lanes[2]))
        assert error.message == "this node has 2 connections of peers, as many as it may"
        assert (await guests[3].shake_hands(lanes[0])).kind == Kind.WELCOME
        await until(lambda: node.server.connection_count == 3)


async def test_half_frames_on_many_connections_share_one_bound() -> None:
    limits = replace(LIMITS, held_bytes_max=3 << 20)
    async with undisturbed(limits) as node, AsyncExitStack() as flood:
        half = struct.pack(">IBBQ", 1 << 20, Kind.READ, 0, 1) + bytes(900_000)
        for _ in range(8):
            guest = await flood.enter_async_context(raw(node))
            await guest.shake_hands()
            guest.send(half)
        # 8 x 0.9 MB do not fit in 3 MiB; three at most may stay.
        await until(lambda: len(node.closed) >= 5)
        for connection in node.closed:
            assert isinstance(connection.reason, errors.Unavailable)


async def test_a_flood_of_pings_is_answered_within_the_bound() -> None:
    async with undisturbed() as node, raw(node) as guest:
        await guest.shake_hands()
        guest.send(b"".join(encode_frame(Kind.PING, n, b"") for n in range(5000)))
        pongs = await guest.frames(5000)
        assert [pong.request for pong in pongs] == list(range(5000))
        assert {pong.kind for pong in pongs} == {Kind.PONG}


async def test_the_same_trouble_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async with undisturbed() as node:
        for _ in range(5):
            async with raw(node) as stranger:
                await stranger.shake_hands(replace(PEER, cluster_id="away"))
        async with raw(node) as stranger:
            stranger.send(b"garbage bytes")
            await stranger.ending()
        await until(lambda: node.server.connection_count == 1)
        lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert len(lines) == 2, lines
        assert "this is cluster home, not away" in lines[0]
        assert "(n2)" in lines[0]
        assert "frame length" in lines[1]


async def test_peers_of_invented_names_get_lines_without_end_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with undisturbed() as node:
        for number in range(LINES_AT_ONCE + 10):
            async with raw(node) as stranger:
                await stranger.shake_hands(replace(PEER, node_id=NodeId(f"x{number}")))
                stranger.send(bytes(4))
                await stranger.ending()
        await until(lambda: node.server.connection_count == 1)
        lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert LINES_AT_ONCE <= len(lines) < LINES_AT_ONCE + 10
        assert "(x0)" in lines[0]


async def test_that_nobody_can_be_let_in_for_want_of_a_file_is_logged_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    def fail(*_: Any) -> None:
        nonlocal looks
        looks += 1
        raise OSError(errno.EMFILE, "Too many open files")

    async with undisturbed() as node:
        with monkeypatch.context() as patched:
            patched.setattr("kvstore.net.server.os.open", fail)
            await until(lambda: looks >= 3)
        (record,) = caplog.records
        assert f"who connects to port {node.server.port} is turned away" in record.getMessage()
        assert "(Too many open files)" in record.getMessage()


async def test_invented_names_get_one_line_and_those_of_nodes_one_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with undisturbed() as node:
        for number in range(10):
            name = NodeId(f"x{number}")
            async with raw(node) as stranger:
                await stranger.shake_hands(replace(PEER, node_id=name, cluster_id="away"))
            async with raw(node) as client:
                await client.shake_hands(replace(CLIENT, node_id=name))
                client.send(bytes(4))
                await client.ending()
        for name in ("n2", "n3", "n2"):
            async with raw(node) as guest:
                await guest.shake_hands(replace(PEER, node_id=NodeId(name)))
                guest.send(bytes(4))
                await guest.ending()
        await until(lambda: node.server.connection_count == 1)
        lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        named = [name for line in lines for name in ("(x0)", "(n2)", "(n3)") if name in line]
        assert named == ["(x0)", "(x0)", "(n2)", "(n3)"]
        assert len(lines) == 4

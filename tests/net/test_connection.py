"""Two well-behaved sides: gathering, order, goodbye, and how the end is told."""

from __future__ import annotations

import asyncio
import re
import socket
from typing import TYPE_CHECKING, Any

import pytest
from net_harness import (
    CLIENT,
    DEADLINE_S,
    LIMITS,
    Client,
    hello_frame,
    listening,
    raw,
    read_frame,
    until,
    within,
)

from kvstore import errors
from kvstore.net.connection import FrameConnection
from kvstore.net.dial import NobodyListens, dial
from kvstore.wire.frames import encode_frame
from kvstore.wire.kinds import Kind
from kvstore.wire.requests import encode_error

if TYPE_CHECKING:
    from kvstore.wire.hello import Welcome


def ignore(*_: Any) -> None:
    """Frames that a test does not look at."""


async def test_everything_of_one_tick_leaves_in_one_write() -> None:
    async with listening() as node:
        client = Client()
        await client.connect(node)
        for request in range(1, 101):
            client.connection.send(read_frame(request, b"key"))
        await until(lambda: len(client.frames) == 100)
        assert [frame.request for frame in client.frames] == list(range(1, 101))
        assert node.arrivals == [100]
        assert client.arrivals == [100]


async def test_sends_of_different_ticks_do_not_wait_for_each_other() -> None:
    async with listening() as node:
        client = Client()
        await client.connect(node)
        for request in (1, 2, 3):
            client.connection.send(read_frame(request, b"key"))
            await until(lambda: len(client.frames) == request)  # noqa: B023  awaited at once
        assert node.arrivals == [1, 1, 1]


async def test_what_the_other_side_has_taken_counts_no_more() -> None:
    async with listening() as node:
        client = Client()
        await client.connect(node)
        transport = client.connection._transport
        assert transport is not None
        question, size = read_frame(1, bytes(100_000)), 0
        while size < 2 * LIMITS.outbound_bytes_max:
            assert client.connection.send(question)
            size += len(question)
            await until(lambda: len(client.frames) * len(question) == size)  # noqa: B023
            assert transport.is_reading()
        assert client.connection.unsent_bytes == 0


async def test_a_frame_of_the_largest_size() -> None:
    async with listening() as node:
        client = Client()
        await client.connect(node)
        largest = encode_frame(Kind.RAFT, 1, bytes(LIMITS.frame_bytes_max - 10))
        assert client.connection.send(largest)
        await until(lambda: len(node.received) == 1)
        assert node.received[0].body == bytes(LIMITS.frame_bytes_max - 10)


async def test_the_welcome_is_there() -> None:
    async with listening() as node:
        client = Client()
        await client.connect(node)
        welcome = client.connection.welcome
        assert welcome is not None
        assert (welcome.node_id, welcome.cluster_id, welcome.protocol) == ("n1", "home", 1)
        assert node.guests[0].hello == CLIENT
        assert client.connection.address == node.address


async def test_a_client_that_says_goodbye() -> None:
    async with listening() as node:
        client = Client()
        await client.connect(node)
        client.connection.send(read_frame(1, b"key"))
        client.connection.close()
        client.connection.close()
        assert not client.connection.send(read_frame(2, b"key"))
        await within(client.connection.wait_closed())
        await until(lambda: len(node.closed) == 1)
        assert client.closed == [client.connection]
        assert node.closed[0].reason is None
        assert [frame.request for frame in node.received] == [1]
        assert node.server.connection_count == 0


async def test_a_server_that_stops_sends_what_is_queued_and_says_goodbye() -> None:
    async with listening() as node:
        client = Client()
        await client.connect(node)
        client.connection.send(read_frame(1, b"key"))
        await until(lambda: len(node.received) == 1)
        await within(node.server.close())
        await within(client.connection.wait_closed())
        assert client.connection.reason is None
        assert [frame.request for frame in client.frames] == [1]
        with pytest.raises(NobodyListens):
            await Client().connect(node)


async def test_a_server_stops_although_a_client_does_not_answer_its_goodbye() -> None:
    async with listening() as node, raw(node) as guest:
        await guest.shake_hands()
        async with raw(node):  # and a stranger
            await until(lambda: node.server.connection_count == 2)
            await within(node.server.close(deadline_s=0.01))
        assert node.server.connection_count == 0


async def test_a_connection_that_is_reset() -> None:
    async with listening() as node:
        client = Client()
        await client.connect(node)
        node.guests[0].abort()
        await within(client.connection.wait_closed())
        reason = client.connection.reason
        assert isinstance(reason, errors.Unavailable)
        assert node.address in reason.message
        assert client.closed == [client.connection]


async def test_an_error_for_the_connection_ends_it_and_is_the_reason() -> None:
    async with listening() as node:
        client = Client()
        await client.connect(node)
        node.guests[0].close(errors.Overloaded("go elsewhere"))
        await within(client.connection.wait_closed())
        reason = client.connection.reason
        assert isinstance(reason, errors.Overloaded)
        assert reason.message == "go elsewhere"
        assert not client.connection.is_ours


async def test_an_error_for_a_request_is_handed_on() -> None:
    async with listening() as node:
        client = Client()
        await client.connect(node)
        body = encode_error(errors.DiskFull("no room"))
        node.guests[0].send(encode_frame(Kind.ERROR, 5, body))
        await until(lambda: len(client.frames) == 1)
        assert (client.frames[0].kind, client.frames[0].request) == (Kind.ERROR, 5)
        assert client.connection.is_open


async def test_dialling_where_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(NobodyListens, match=f"127.0.0.1:{port}: connection refused"):
        await dial(
            f"127.0.0.1:{port}", CLIENT, limits=LIMITS, timeout_s=DEADLINE_S, on_frames=ignore
        )


async def test_dialling_a_host_without_an_address() -> None:
    with pytest.raises(errors.Unavailable, match=r"no-such-host\.invalid:1: cannot connect"):
        await dial(
            "no-such-host.invalid:1", CLIENT, limits=LIMITS, timeout_s=DEADLINE_S, on_frames=ignore
        )


@pytest.mark.parametrize(
    "address",
    ["", "7409", "host", "host:", ":7409", "host:-1", "host:0", "host:70000", "host:seven"],
)
async def test_dialling_what_is_no_address(address: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=f"'{address}' is not host:port"):
        await dial(address, CLIENT, limits=LIMITS, timeout_s=DEADLINE_S, on_frames=ignore)


async def test_dialling_a_name_that_no_host_can_have() -> None:
    with pytest.raises(errors.InvalidArgument, match=r"'a\.\.b:1' names no host: "):
        await dial("a..b:1", CLIENT, limits=LIMITS, timeout_s=DEADLINE_S, on_frames=ignore)


async def test_dialling_a_frozen_process() -> None:
    """Its kernel accepts the connection; nobody answers the hello."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(errors.Unavailable, match=r"no answer within 0.05 s") as caught:
            await dial(f"127.0.0.1:{port}", CLIENT, limits=LIMITS, timeout_s=0.05, on_frames=ignore)
        assert not isinstance(caught.value, NobodyListens)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", errors.Unavailable),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", errors.ProtocolError),
        (encode_frame(Kind.REPLY, 0, b""), errors.ProtocolError),
        (encode_frame(Kind.WELCOME, 0, b"\xc1"), errors.ProtocolError),
        (encode_frame(Kind.GOODBYE, 0, b""), errors.Unavailable),
        (encode_frame(Kind.ERROR, 0, b"\xc1"), errors.ProtocolError),
        (
            encode_frame(Kind.ERROR, 0, encode_error(errors.Refused("stranger"))),
            errors.Refused,
        ),
    ],
)
async def test_dialling_something_that_is_no_node(
    answer: bytes, kind: type[errors.KVError]
) -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(kind) as caught:
            await dial(
                f"127.0.0.1:{port}", CLIENT, limits=LIMITS, timeout_s=DEADLINE_S, on_frames=ignore
            )
        assert type(caught.value) is kind


async def test_a_node_that_is_turned_down_learns_why() -> None:
    def check(welcome: Welcome) -> None:
        raise errors.Refused(f"{welcome.node_id} was not expected")

    async with listening() as node:
        with pytest.raises(errors.Refused, match="n1 was not expected"):
            await dial(
                node.address, CLIENT, limits=LIMITS, timeout_s=DEADLINE_S, on_frames=ignore,
                check=check,
            )  # fmt: skip
        await until(lambda: len(node.closed) == 1)
        reason = node.closed[0].reason
        assert isinstance(reason, errors.Refused)
        assert not node.closed[0].is_ours


async def test_a_dial_that_is_cancelled_leaves_nothing_open() -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        dialling = asyncio.create_task(
            dial(address, CLIENT, limits=LIMITS, timeout_s=DEADLINE_S, on_frames=ignore)
        )
        accepted, _ = await within(loop.sock_accept(listener))
        with accepted:
            assert await within(loop.sock_recv(accepted, 4096)) == hello_frame()
            dialling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await dialling
            assert await within(loop.sock_recv(accepted, 4096)) == b""


async def test_a_dial_that_is_cancelled_as_it_succeeds_is_cancelled_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As by a deadline that passes just then; uvloop has closed the socket by itself."""
    made = FrameConnection.connection_made

    def made_too_late(connection: FrameConnection, transport: asyncio.BaseTransport) -> None:
        made(connection, transport)
        dialling.cancel()

    monkeypatch.setattr(FrameConnection, "connection_made", made_too_late)
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        dialling = asyncio.create_task(
            dial(address, CLIENT, limits=LIMITS, timeout_s=DEADLINE_S, on_frames=ignore)
        )
        with pytest.raises(asyncio.CancelledError):
            await dialling
        accepted, _ = await within(loop.sock_accept(listener))
        with accepted:
            assert await within(loop.sock_recv(accepted, 4096)) == b""


async def test_a_port_in_use() -> None:
    async with listening() as node:
        with pytest.raises(errors.StartupError) as caught:
            async with listening(port=node.server.port):
                pass
        assert caught.value.message == (
            f"cannot listen at {node.address}: the port is in use by another process"
        )


@pytest.mark.parametrize("host", ["192.0.2.1", "x" * 64, "a..b"])
async def test_an_address_of_another_machine_or_of_none(host: str) -> None:
    async with listening() as node:
        node.server._host = host
        with pytest.raises(errors.StartupError, match=rf"cannot listen at {re.escape(host)}:"):
            await node.server.start()
        node.server._host = "127.0.0.1"


class ClosedTransport(asyncio.Transport):
    """As uvloop leaves it when ``create_connection`` is cancelled at the last moment."""

    def __init__(self) -> None:
        super().__init__()
        self.socket = socket.socket()
        self.aborts = 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.socket if name == "socket" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Of no matter any more."""

    def is_closing(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def resume_reading(self) -> None:
        raise RuntimeError("the handler is closed")

    def write(self, data: Any) -> None:
        raise TypeError("'NoneType' object is not callable")

    writelines = write

    def abort(self) -> None:
        self.aborts += 1


@pytest.mark.parametrize("frames", [1, 2])
async def test_what_was_queued_when_the_socket_closed_is_dropped(frames: int) -> None:
    """The other side's end of file closes a transport at once; its protocol hears of it later."""
    connection, transport = FrameConnection(LIMITS, on_frames=ignore), ClosedTransport()
    with transport.socket:
        connection.connection_made(transport)
        for request in range(frames):
            assert connection.send(read_frame(request, b"key"))
        connection._flush()
        assert connection.unsent_bytes == 0
        connection.connection_lost(None)


async def test_a_connection_whose_socket_is_gone_already_can_be_aborted() -> None:
    connection, transport = FrameConnection(LIMITS, on_frames=ignore), ClosedTransport()
    with transport.socket:
        connection.connection_made(transport)
        connection.abort()
        connection.connection_lost(None)
    assert transport.aborts == 1
    assert not connection.is_open

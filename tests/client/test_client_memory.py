"""What has failed is forgotten at once: nothing waits for the garbage collector, which is off.

A program's collector may come late, and a failed call holds the values it was given.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import pytest
from fake_kv_cluster import QUICK, Do, until

import kvstore
from kvstore.client.call import Call
from kvstore.client.cluster import Cluster
from kvstore.client.gate import Gate
from kvstore.client.link import Link
from kvstore.client.question import _Question, ask
from kvstore.client.scan import ShardCursor
from kvstore.errors import (
    DeadlineExceeded,
    KVError,
    Overloaded,
    ProtocolError,
    Refused,
    Unavailable,
)
from kvstore.net.connection import FrameConnection
from kvstore.wire.frames import Frame
from kvstore.wire.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from fake_kv_cluster import FakeCluster

    from kvstore import Client
    from kvstore.client.link import Waiter


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def living(*kinds: type) -> int:
    """How many objects of these types are in memory, whoever holds them."""
    return sum(type(each) in kinds for each in gc.get_objects())


async def failure(call: Coroutine[None, None, Any]) -> type[KVError] | None:
    """How it fails; the error itself, which holds what it went through, is let go."""
    try:
        await call
    except KVError as error:
        return type(error)
    return None


def wait_until(condition: Callable[[], bool]) -> None:
    """Return when ``condition`` holds, which another thread brings about."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Value:
    """Something whose end can be seen."""


async def test_a_write_that_is_answered_badly(kv: Client, cluster: FakeCluster) -> None:
    cluster.leader_of(b"k").script.append(Do.GARBAGE)
    assert await failure(kv.put("k", b"v")) is ProtocolError
    assert living(Call) == 0


async def test_a_call_that_finds_no_room() -> None:
    gate = Gate(operations_max=1, bytes_max=100, waiting_max=10)
    assert gate.try_enter(1)
    ends: list[weakref.ref[Value]] = []

    async def put(deadline: float) -> None:
        value = Value()
        ends.append(weakref.ref(value))
        await gate.enter(1, deadline)

    soon = asyncio.get_running_loop().time() + 0.01
    assert await failure(put(soon)) is Overloaded
    waiting = asyncio.create_task(failure(put(soon + 60)))
    await until(lambda: len(ends) == 2)
    gate.close(Unavailable("closed"))
    assert await waiting is Unavailable
    assert [end() for end in ends] == [None, None]


async def test_a_scan_that_fails(kv: Client, cluster: FakeCluster) -> None:
    async def scan() -> None:
        async for _ in kv.scan(timeout_s=0.05):
            pass

    cluster.elect(None)
    # Which of them depends on what it hears before its deadline.
    assert await failure(scan()) in (Unavailable, DeadlineExceeded)
    await until(lambda: living(ShardCursor) == 0)


class LostLink:
    """A link whose connection ends as soon as something is asked, with or without an answer."""

    def __init__(self, answer: Frame | None) -> None:
        self.answer = answer
        self.error = Unavailable("lost")

    def send(self, kind: Kind, request: int, body: bytes, waiter: Waiter) -> None:
        link = cast("Link", self)
        if self.answer is None:
            waiter.lost(link, request, self.error)
        else:
            waiter.answered(link, self.answer)

    def forget(self, request: int) -> None:
        """Nothing is kept."""


@pytest.mark.parametrize("answer", [None, Frame(Kind.ERROR, 0, 1, b"\xc1")])
async def test_a_question_that_is_not_answered(answer: Frame | None) -> None:
    link = LostLink(answer)
    assert await failure(ask(cast("Link", link), Kind.STATUS, 1)) is not None
    assert living(_Question) == 0
    assert link.error.__traceback__ is None, "it is everybody's who asked"


async def test_a_client_that_finds_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = kvstore.connect(f"127.0.0.1:{port}", timeout_s=0.05, options=QUICK)
    assert await failure(client.open()) is Unavailable
    await until(lambda: living(Cluster, Link, FrameConnection) == 0)


async def test_a_client_that_is_turned_away(cluster: FakeCluster) -> None:
    client = kvstore.connect(cluster.endpoints, cluster_id="another", options=QUICK)
    assert await failure(client.open()) is Refused
    await until(lambda: living(Cluster, Link, FrameConnection) == 0)


async def test_a_link_keeps_only_the_words_of_an_error(cluster: FakeCluster) -> None:
    async def refuse(*_: object) -> FrameConnection:
        raise Refused("no")

    cluster_ = Cluster((cluster.node(1).address,), QUICK)
    cluster_._dial = refuse  # type: ignore[method-assign, assignment]
    link = cluster_.new_link(cluster.node(1).address)
    assert await failure(link.opened()) is Refused
    assert link.error is not None
    assert link.error.__traceback__ is None


async def test_a_node_without_a_status(kv: Client, cluster: FakeCluster) -> None:
    await cluster.node(1).kill()
    statuses = await kv.node_statuses(timeout_s=1.0)
    error = statuses[0].error
    assert error is not None
    assert error.__traceback__ is None


def test_calls_of_a_program_without_a_loop(served: FakeCluster) -> None:
    ends: list[weakref.ref[Value]] = []

    async def fail(_: Value) -> None:
        raise Unavailable("no")

    def call(client: kvstore.SyncClient) -> None:
        value = Value()
        ends.append(weakref.ref(value))
        with suppress(Unavailable):
            client._wait(fail, value)

    def scan(client: kvstore.SyncClient) -> None:
        with suppress(Unavailable, DeadlineExceeded):
            list(client.scan(timeout_s=0.05))

    with kvstore.connect_sync(served.endpoints, options=QUICK) as client:
        call(client)
        wait_until(lambda: ends[0]() is None)
        served.elect(None)
        scan(client)
        wait_until(lambda: living(ShardCursor) == 0)

from __future__ import annotations

import asyncio
import os
import select
import signal
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from fake_kv_cluster import QUICK

import kvstore
from kvstore.client import sync
from kvstore.errors import DeadlineExceeded, InvalidArgument, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from fake_kv_cluster import FakeCluster


def test_all_calls(served: FakeCluster) -> None:
    with kvstore.connect_sync(served.endpoints, options=QUICK) as kv:
        revision = kv.put("user:1", b"Ada")
        assert kv.get("user:1") == kvstore.KeyValue(b"user:1", b"Ada", revision)
        assert kv.compare_and_swap("user:1", b"Ada", b"Grace") is True
        assert kv.delete("user:1") is True
        assert kv.get("user:1") is None
        for number in range(600):
            kv.put(f"k{number:03}", b"v")
        assert [row.key for row in kv.scan("k")] == [b"k%03d" % n for n in range(600)]
        assert next(kv.scan("k")).key == b"k000"
        assert kv.shard_map().shards == 4
        assert kv.locate("k").leader == served.shard_of(b"k").leader
        assert [status.node for status in kv.node_statuses()] == ["n1", "n2", "n3"]


def test_threads_share_a_client(served: FakeCluster) -> None:
    with kvstore.connect_sync(served.endpoints, options=QUICK) as kv, ThreadPoolExecutor(8) as pool:
        revisions = list(pool.map(lambda number: kv.put(f"k{number}", b"v"), range(200)))
        assert all(revision > 0 for revision in revisions)
        items = list(pool.map(lambda number: kv.get(f"k{number}"), range(200)))
    assert None not in items


def test_the_thread_ends_with_the_client(served: FakeCluster) -> None:
    before = set(threading.enumerate())
    client = kvstore.connect_sync(served.endpoints, options=QUICK)
    with pytest.raises(InvalidArgument, match="not open"):
        client.get("k")
    with client as kv:
        assert len(set(threading.enumerate()) - before) == 1
        rows = kv.scan()
    assert set(threading.enumerate()) <= before
    with pytest.raises(Unavailable, match="closed"):
        client.get("k")
    with pytest.raises(Unavailable, match="closed"):
        next(rows)
    client.close()


def test_a_failed_opening_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    with (
        pytest.raises(Unavailable),
        kvstore.connect_sync("127.0.0.1:1", timeout_s=0.05, options=QUICK),
    ):
        pass
    assert set(threading.enumerate()) <= before


def test_an_opening_that_failed_can_be_repeated(served: FakeCluster) -> None:
    node = served.node(1)
    asyncio.run_coroutine_threadsafe(node.kill(), served.loop).result()
    client = kvstore.connect_sync(node.address, timeout_s=0.05, options=QUICK)
    with pytest.raises(Unavailable):
        client.open()
    with pytest.raises(InvalidArgument, match="not open"):
        client.get("k")
    asyncio.run_coroutine_threadsafe(node.start(), served.loop).result()
    with client as kv:
        kv.put("k", b"v", timeout_s=5)
        with pytest.raises(InvalidArgument, match="opened once"):
            kv.open()


def in_a_fork(calls: Callable[[], None]) -> None:
    """Run ``calls`` in a child of this process, which must get through them."""
    read_end, write_end = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        child = os.fork()
    if child == 0:
        try:
            calls()
            os.write(write_end, b"well")
        finally:
            os._exit(0)
    os.close(write_end)
    try:
        has_ended, _, _ = select.select([read_end], [], [], 10)
        assert has_ended, "the child hangs"
        assert os.read(read_end, 100) == b"well"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read_end)


def test_after_a_fork_the_child_is_told_to_connect_anew(served: FakeCluster) -> None:
    with kvstore.connect_sync(served.endpoints, options=QUICK) as kv:
        kv.put("k", b"v")
        rows = kv.scan()
        next(rows)

        def calls() -> None:
            for call in (lambda: kv.put("k", b"other"), lambda: next(kv.scan()), kv.open):
                with pytest.raises(InvalidArgument, match="connect anew after a fork"):
                    call()
            rows.close()
            kv.close()

        in_a_fork(calls)
        found = kv.get("k")
        assert found is not None
        assert found.value == b"v"


def test_a_child_does_not_wait_for_a_lock_that_a_lost_thread_held(served: FakeCluster) -> None:
    with kvstore.connect_sync(served.endpoints, options=QUICK) as kv:

        def calls() -> None:
            with pytest.raises(InvalidArgument, match="connect anew after a fork"):
                kv.get("k")
            kv.close()

        with kv._submitting:
            in_a_fork(calls)


def test_closing_ends_calls_of_other_threads(served: FakeCluster) -> None:
    client = kvstore.connect_sync(served.endpoints, options=QUICK)
    client.open()
    for node in served.nodes.values():
        node.freeze()
    errors: list[BaseException] = []
    begun = threading.Event()

    def call() -> None:
        begun.set()
        try:
            client.put("k", b"v")
        except kvstore.KVError as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    begun.wait()
    client.close()
    thread.join(5)
    assert [type(error) for error in errors] == [Unavailable]


def test_nobody_is_left_waiting_for_a_loop_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "LAST_CALLS_S", 0.01)
    loop = asyncio.new_event_loop()
    nearly_over = loop.create_task(asyncio.sleep(0, "over"))
    endless = loop.create_task(asyncio.Event().wait())
    sync._end_calls(loop)
    loop.close()
    assert nearly_over.result() == "over"
    assert endless.cancelled()


def test_calls_that_race_with_the_end_end_too(served: FakeCluster) -> None:
    def call(client: kvstore.SyncClient) -> str:
        try:
            while True:
                client.put("k", b"v")
        except Unavailable as error:
            return error.message

    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            client = kvstore.connect_sync(served.endpoints, options=QUICK)
            client.open()
            calls = [pool.submit(call, client) for _ in range(4)]
            client.put("k", b"v")
            client.close()
            assert {each.result(10) for each in calls} == {"the client is closed"}


def test_errors_keep_their_meaning(served: FakeCluster) -> None:
    with kvstore.connect_sync(served.endpoints, options=QUICK) as kv:
        with pytest.raises(InvalidArgument):
            kv.put("", b"v")
        served.elect(None)
        with pytest.raises((Unavailable, DeadlineExceeded)) as caught:
            kv.put("k", b"v", timeout_s=0.05)
        assert caught.value.retryable

"""How many keys a shard has, and how many bytes: told by the log alone, however it was stored."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kv_model import LIMITS, SHARD, START_MS, Replica, Sent

from kvstore.errors import DataDirectoryError, DiskFull
from kvstore.hlc import revision_at
from kvstore.kv.applied import applied_key
from kvstore.kv.commands import CAS, DELETE, PUT, Command
from kvstore.kv.engine import Space, WriteBatch, shard_range, space_range

START = revision_at(START_MS)
KEY = applied_key(SHARD)
FORMAT_1_BYTES = 33


def run(replica: Replica, revision: int, *batch: Command) -> None:
    replica.send(revision, Sent((0, 0), 0, 0, batch))


@pytest.fixture
def replica() -> Replica:
    replica = Replica()
    run(replica, START, (PUT, b"a", b"12"), (PUT, b"bb", b"345"))
    replica.write()
    return replica


def make_older(replica: Replica) -> None:
    """The engine as a version left it that did not count."""
    stored = replica.engine.get(KEY)
    assert stored is not None
    batch = replica.engine.batch()
    batch.put(KEY, b"\x01" + stored[1:FORMAT_1_BYTES])
    replica.engine.write(batch)


def test_a_new_shard_has_none() -> None:
    assert Replica().counts() == (0, 0)


@pytest.mark.parametrize(
    ("command", "counts"),
    [
        ((PUT, b"c", b""), (3, 9)),
        ((PUT, b"a", b"1"), (2, 7)),
        ((PUT, b"a", b"1234"), (2, 10)),
        ((DELETE, b"bb"), (1, 3)),
        ((DELETE, b"never"), (2, 8)),
        ((CAS, b"a", b"12", b""), (2, 6)),
        ((CAS, b"a", b"21", b""), (2, 8)),
        ((CAS, b"a", None, b""), (2, 8)),
        ((CAS, b"c", None, b"1"), (3, 10)),
        ((CAS, b"c", b"", b"1"), (2, 8)),
    ],
    ids=repr,
)
@pytest.mark.parametrize("writes", [False, True])
def test_what_a_command_changes(
    replica: Replica, command: Command, counts: tuple[int, int], writes: bool
) -> None:
    run(replica, START + 10, command)
    if writes:
        replica.write()
    run(replica, START + 20, command)
    run(replica, START + 30, (PUT, b"zz", b"zz"), (DELETE, b"zz"))
    replica.write()
    assert replica.counts() == counts
    assert replica.recount() == counts


def test_readers_see_the_counts_of_what_is_written(replica: Replica) -> None:
    run(replica, START + 10, (DELETE, b"a"))
    replica.apply_noop()
    replica.apply_config(b"config")
    assert replica.counts() == (2, 8)
    replica.write()
    assert replica.counts() == (1, 5)
    replica.restart()
    assert replica.counts() == (1, 5)


def test_a_refused_batch_and_a_repeated_one_count_for_nothing(replica: Replica) -> None:
    too_long = b"k" * (LIMITS.key_bytes_max + 1)
    run(replica, START + 10, (PUT, b"c", b"1"), (PUT, too_long, b""))
    sent = Sent((START, 1), 1, 1, ((PUT, b"d", b"1"),))
    replica.send(START + 20, sent, sent)
    replica.send(START + 30, sent)
    replica.write()
    assert replica.counts() == replica.recount() == (3, 10)


def test_what_is_given_up_is_counted_no_longer(replica: Replica) -> None:
    run(replica, START + 10, (DELETE, b"a"), (PUT, b"c", b"1"), (PUT, b"d", b"1"))
    replica.give_up()
    assert replica.counts() == (2, 8)
    run(replica, START + 10, (PUT, b"c", b"1"))
    replica.write()
    assert replica.counts() == replica.recount() == (3, 10)


# -- what a version left that did not count ------------------------------------------------------


ROWS = st.dictionaries(st.binary(min_size=1, max_size=16), st.binary(max_size=64), max_size=20)


@settings(max_examples=60)
@given(rows=ROWS, is_idle=st.booleans())
def test_whoever_was_upgraded_holds_the_same_rows_as_whoever_always_counted(
    rows: dict[bytes, bytes], is_idle: bool
) -> None:
    """At once: replicas of an idle shard are compared too, and no entry comes to mend it."""
    upgraded, fresh = Replica(), Replica()
    for replica in (upgraded, fresh):
        for number, (key, value) in enumerate(rows.items()):
            run(replica, START + number, (PUT, key, value))
        replica.apply_config(b"config")
        replica.write()
    make_older(upgraded)
    upgraded.restart()
    if not is_idle:
        for replica in (upgraded, fresh):
            run(replica, START + 100, *((DELETE, key) for key in [*rows][::2]), (PUT, b"n", b""))
            replica.write()
    assert upgraded.counts() == upgraded.recount()
    assert upgraded.contents() == fresh.contents()


def test_a_shard_of_many_pages_is_counted_whole_and_alone() -> None:
    replica = Replica()
    for number in range(2100):
        run(replica, START + number, (PUT, b"%d" % number, b"v" * (number % 60)))
    replica.write()
    batch = replica.engine.batch()
    batch.put(space_range(SHARD, Space.DATA)[1], bytes(99))
    batch.put(shard_range(SHARD)[1] + b"\x00", bytes(99))
    replica.engine.write(batch)
    counted = replica.counts()
    assert counted == replica.recount()
    make_older(replica)
    replica.restart()
    assert replica.counts() == counted


def test_it_is_counted_once(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    make_older(replica)
    replica.machine.upgrade()
    data = space_range(SHARD, Space.DATA)[0]
    scan = replica.engine.scan

    def scan_but_no_data(start: bytes, *rest: int) -> list[tuple[bytes, bytes]]:
        assert not start.startswith(data)
        return scan(start, *rest)

    monkeypatch.setattr(replica.engine, "scan", scan_but_no_data)
    replica.machine.upgrade()
    replica.machine.reload()
    replica.restart()
    assert replica.counts() == (2, 8)


def test_a_crash_before_the_engine_has_flushed_it_costs_another_count(replica: Replica) -> None:
    make_older(replica)
    as_flushed = replica.contents()
    replica.restart()
    batch = replica.engine.batch()
    batch.delete_range(*shard_range(SHARD))
    for key, stored in as_flushed:
        batch.put(key, stored)
    replica.engine.write(batch)
    replica.restart()
    assert replica.counts() == (2, 8)
    assert replica.machine.applied_index == 1


def test_without_room_for_the_counts_nothing_is_changed(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_older(replica)
    before = replica.contents()

    def full(_: WriteBatch) -> None:
        raise DiskFull("no room")

    with monkeypatch.context() as patched:
        patched.setattr(replica.engine, "write", full)
        with pytest.raises(DiskFull):
            replica.restart()
    assert replica.contents() == before
    replica.restart()
    assert replica.counts() == (2, 8)


def test_a_format_to_come_is_refused(replica: Replica) -> None:
    batch = replica.engine.batch()
    batch.put(KEY, b"\x03" + bytes(60))
    replica.engine.write(batch)
    replica.machine.upgrade()
    assert replica.engine.get(KEY) == b"\x03" + bytes(60)
    with pytest.raises(DataDirectoryError, match="format 3"):
        replica.machine.reload()

"""What readers see, and what the machine remembers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kv_model import LIMITS, START_MS, Replica, Sent, outcome, own_all

from kvstore.config import LimitsConfig
from kvstore.errors import DataDirectoryError, Internal, InvalidArgument
from kvstore.hlc import revision_at
from kvstore.ids import ShardId
from kvstore.kv import commands, values
from kvstore.kv.commands import DELETE, PUT, Command
from kvstore.kv.engine import Space, shard_range, space_prefix, space_range
from kvstore.kv.limits import ApplyLimits
from kvstore.kv.state_machine import StateMachine

START = revision_at(START_MS)
PLENTY = 1 << 20


def run(replica: Replica, revision: int, *batch: Command) -> None:
    replica.send(revision, Sent((0, 0), 0, 0, batch))


@pytest.fixture
def replica() -> Replica:
    replica = Replica()
    run(replica, START, *((PUT, key, key * 2) for key in (b"b", b"a", b"c", b"\xff\xff", b"a\x00")))
    replica.write()
    return replica


def test_reads_see_only_what_is_written_and_so_does_the_applied_index(replica: Replica) -> None:
    run(replica, START + 10, (PUT, b"a", b"new"), (DELETE, b"b"))
    machine = replica.machine
    assert (machine.applied_index, machine.last_revision) == (1, START + 4)
    assert machine.get_many([b"a", b"b"]) == [(b"aa", START + 1), (b"bb", START)]
    replica.write()
    assert (machine.applied_index, machine.last_revision) == (2, START + 11)
    assert machine.get_many([b"b", b"a", b"none"]) == [None, (b"new", START + 10), None]


def test_a_write_that_found_no_room_may_be_written_later(replica: Replica) -> None:
    """The driver keeps the batch, and its machine, until the disk has room."""
    batch = replica.engine.batch()
    payload = commands.encode_entry(
        START + 9, [(1, commands.encode_batch(0, 0, 0, 0, [(DELETE, b"a")]))], LIMITS
    )
    replica.machine.apply(2, 1, payload)
    replica.machine.flush(batch)
    assert replica.machine.get_many([b"a"]) == [(b"aa", START + 1)]
    assert replica.machine.applied_index == 1
    replica.engine.write(batch)
    replica.machine.written()
    assert replica.machine.get_many([b"a"]) == [None]
    assert replica.machine.applied_index == 2


def test_what_is_written_is_not_written_again(replica: Replica) -> None:
    replica.send(START + 50, Sent((START, 1), 1, 1, ((DELETE, b"a"),)))
    replica.write()
    replica.apply_noop()
    batch = replica.engine.batch()
    replica.machine.flush(batch)
    assert [key[3:] for key, _, _ in batch.operations] == [b"applied"]


def test_what_is_given_up_is_forgotten_by_reload(replica: Replica) -> None:
    run(replica, START + 10, (DELETE, b"a"))
    replica.machine.reload()
    replica.restart()
    run(replica, START + 10, (DELETE, b"a"))
    replica.write()
    assert replica.machine.get_many([b"a"]) == [None]
    assert replica.machine.applied_index == 2


def test_another_state_put_into_the_engine_is_taken_up_by_reload(replica: Replica) -> None:
    """As a snapshot install does it, while entries of the old state are not written yet."""
    source = Replica()
    source.apply_config(b"five voters")
    source.send(START + 70, Sent((START, 9), 1, 1, ((PUT, b"only", b"this"),)))
    source.write()
    run(replica, START + 10, (PUT, b"a", b"unwritten"))
    batch = replica.engine.batch()
    batch.delete_range(*shard_range(ShardId(5)))
    for key, stored in source.contents():
        batch.put(key, stored)
    replica.engine.write(batch)
    replica.machine.reload()
    machine = replica.machine
    assert (machine.applied_index, machine.applied_term) == (2, 1)
    assert (machine.last_revision, machine.config_bytes) == (START + 70, b"five voters")
    assert replica.rows() == source.rows()
    encoded = commands.encode_batch(0, 0, 0, 0, [(DELETE, b"a")])
    payload = commands.encode_entry(START + 71, [(1, encoded)], LIMITS)
    (reply,) = machine.apply(3, 1, payload)
    assert outcome(reply, 1) == (START + 71, [False])
    replica.restart()
    again = Sent((START, 9), 1, 1, ((PUT, b"only", b"this"),))
    assert replica.send(START + 80, again) == source.send(START + 80, again)


def test_all_that_later_entries_need_survives_a_restart(replica: Replica) -> None:
    replica.apply_config(b"config")
    replica.apply_noop()
    replica.write()
    replica.restart()
    machine = replica.machine
    assert (machine.applied_index, machine.applied_term) == (3, 2)
    assert (machine.last_revision, machine.config_bytes) == (START + 4, b"config")


def test_a_new_shard_knows_nothing() -> None:
    machine = Replica().machine
    assert (machine.applied_index, machine.applied_term) == (0, 0)
    assert (machine.last_revision, machine.config_bytes) == (0, b"")
    assert machine.scan(b"", None, 10, PLENTY, False) == ([], False)


@pytest.mark.parametrize("index", [0, 1, 3])
def test_only_the_next_entry_is_applied(replica: Replica, index: int) -> None:
    payload = commands.encode_entry(
        START + 9, [(1, commands.encode_batch(0, 0, 0, 0, [(DELETE, b"a")]))], LIMITS
    )
    for apply in (
        lambda: replica.machine.apply(index, 1, payload),
        lambda: replica.machine.apply_noop(index, 1),
        lambda: replica.machine.apply_config(index, 1, b""),
    ):
        with pytest.raises(Internal, match="entry"):
            apply()


def test_revisions_that_do_not_rise_stop_the_replica(replica: Replica) -> None:
    with pytest.raises(Internal, match="revision"):
        run(replica, START + 4, (DELETE, b"a"))


def test_a_key_keeps_the_revision_that_created_it_until_it_is_deleted(replica: Replica) -> None:
    run(replica, START + 10, (PUT, b"a", b"1"), (DELETE, b"b"), (PUT, b"b", b"2"))
    replica.write()
    assert replica.rows()[b"a"] == (b"1", START + 1, START + 10)
    assert replica.rows()[b"b"] == (b"2", START + 12, START + 12)


@pytest.mark.parametrize(
    ("start", "end", "limit", "keys", "more"),
    [
        (b"", None, 9, [b"a", b"a\x00", b"b", b"c", b"\xff\xff"], False),
        (b"", None, 5, [b"a", b"a\x00", b"b", b"c", b"\xff\xff"], False),
        (b"", None, 4, [b"a", b"a\x00", b"b", b"c"], True),
        (b"a", b"a\x00", 9, [b"a"], False),
        (b"a\x00", b"c", 1, [b"a\x00"], True),
        (b"a\x00", b"c", 2, [b"a\x00", b"b"], False),
        (b"d", b"\xff", 9, [], False),
        (b"c", b"a", 9, [], False),
        (b"\xff\xff\x00", None, 9, [], False),
    ],
)
def test_a_scan_is_a_page_in_key_order(
    replica: Replica, start: bytes, end: bytes | None, limit: int, keys: list[bytes], more: bool
) -> None:
    rows, has_more = replica.machine.scan(start, end, limit, PLENTY, False)
    assert [row.key for row in rows] == keys
    assert [row.value for row in rows] == [key * 2 for key in keys]
    assert has_more is more
    only_keys, _ = replica.machine.scan(start, end, limit, PLENTY, True)
    assert only_keys == [row._replace(value=None) for row in rows]


def test_a_page_holds_one_row_even_if_it_is_too_large(replica: Replica) -> None:
    rows, more = replica.machine.scan(b"", None, 9, 1, False)
    assert [(row.key, row.value, row.revision) for row in rows] == [(b"a", b"aa", START + 1)]
    assert more


@pytest.mark.parametrize(("limit", "bytes_max"), [(0, 1), (1, 0), (-1, 1)])
def test_a_page_of_nothing_is_refused(replica: Replica, limit: int, bytes_max: int) -> None:
    with pytest.raises(InvalidArgument):
        replica.machine.scan(b"", None, limit, bytes_max, False)


@given(
    keys=st.sets(st.binary(min_size=1, max_size=3), max_size=12),
    limit=st.integers(1, 5),
    bytes_max=st.integers(1, 200),
)
def test_pages_add_up_to_the_whole(keys: set[bytes], limit: int, bytes_max: int) -> None:
    replica = Replica()
    if keys:
        run(replica, START, *((PUT, key, b"v") for key in keys))
    replica.write()
    found, start, more = [], b"", True
    while more:
        rows, more = replica.machine.scan(start, None, limit, bytes_max, False)
        assert rows or not more
        found += [row.key for row in rows]
        start = found[-1] + b"\x00" if found else b""
    assert found == sorted(keys)


def test_shards_share_an_engine_and_nothing_else(replica: Replica) -> None:
    neighbours = [StateMachine(ShardId(n), replica.engine, owns=own_all) for n in (4, 6, 65535)]
    for machine in neighbours:
        batch = replica.engine.batch()
        encoded = commands.encode_batch(0, 0, 0, 0, [(PUT, b"x", bytes([machine.applied_index]))])
        machine.apply(1, 1, commands.encode_entry(START, [(1, encoded)], LIMITS))
        machine.flush(batch)
        replica.engine.write(batch)
        machine.written()
    for machine in neighbours:
        rows, more = machine.scan(b"", None, 9, PLENTY, True)
        assert ([row.key for row in rows], more) == ([b"x"], False)
    assert replica.machine.get_many([b"x"]) == [None]


def test_the_spaces_of_a_shard_stand_in_order_within_its_range() -> None:
    for shard in (ShardId(0), ShardId(1), ShardId(65535)):
        start, end = shard_range(shard)
        for space in Space:
            first, last = space_range(shard, space)
            assert start <= first < last <= end
            assert first == space_prefix(shard, space)
            assert first <= space_prefix(shard, space) + b"\xff" * 9 < last
    assert shard_range(ShardId(1))[1] <= shard_range(ShardId(2))[0]


@pytest.mark.parametrize("place", ["applied", "session"])
def test_what_a_newer_version_stored_is_not_touched(replica: Replica, place: str) -> None:
    replica.send(START + 50, Sent((START, 1), 1, 1, ((DELETE, b"a"),)))
    replica.write()
    start, end = space_range(ShardId(5), Space.SYSTEM if place == "applied" else Space.SESSIONS)
    ((key, stored),) = replica.engine.snapshot_rows(start, end)
    offset = 0 if place == "applied" else 1
    batch = replica.engine.batch()
    batch.put(key, stored[:offset] + bytes([stored[offset] + 1]) + stored[offset + 1 :])
    replica.engine.write(batch)
    with pytest.raises(DataDirectoryError, match=f"format {stored[offset] + 1}"):
        replica.restart()


@pytest.mark.parametrize("stored", [b"", b"\x02" + bytes(40), b"\x01" + bytes(23)])
def test_a_value_of_an_unknown_form_is_not_guessed_at(stored: bytes) -> None:
    with pytest.raises(Internal):
        values.decode(stored)


def test_the_largest_configured_limits_fit_an_entry() -> None:
    huge = LimitsConfig(
        key_bytes_max=1 << 40,
        value_bytes_max=1 << 40,
        session_ttl_s=1e30,
        sessions_per_shard_max=1 << 40,
    )
    limits = ApplyLimits.of(huge)
    payload = commands.encode_entry(1, [(1, b"")], limits)
    assert commands.decode_entry(payload).limits == limits
    assert ApplyLimits.of(LimitsConfig(session_ttl_s=1e-9)).session_ttl_ms == 1

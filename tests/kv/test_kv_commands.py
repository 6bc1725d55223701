from __future__ import annotations

import tracemalloc
from contextlib import suppress
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kv_harness import LIMITS, batch, delete, owns, put, swap

from kvstore.config import LimitsConfig
from kvstore.errors import Internal, InvalidArgument
from kvstore.kv import commands
from kvstore.kv.limits import U32_MAX, ApplyLimits

U64 = st.integers(0, (1 << 64) - 1)
KEYS = st.binary(min_size=1, max_size=16).filter(owns)
VALUES = st.binary(max_size=64)
COMMANDS = st.one_of(
    st.builds(put, KEYS, VALUES),
    st.builds(delete, KEYS),
    st.builds(swap, KEYS, st.none() | VALUES, VALUES),
)


def decode(count: int, encoded: bytes) -> list[commands.Command]:
    return commands.decode_commands(commands.decode_batch(encoded, count), LIMITS, owns)


@given(session=st.tuples(U64, U64), seq=U64, ack=U64, run=st.lists(COMMANDS, min_size=1))
def test_a_batch_comes_back_as_it_was(
    session: tuple[int, int], seq: int, ack: int, run: list[commands.Command]
) -> None:
    encoded = commands.encode_batch(*session, seq, ack, run)
    opened = commands.decode_batch(encoded, len(run))
    assert (opened.session, opened.seq, opened.ack_below) == (session, seq, ack)
    assert commands.decode_commands(opened, LIMITS, owns) == run


def test_the_bytes_of_a_batch_are_pinned() -> None:
    """Clients and nodes of different versions exchange them."""
    run = [put(b"a", b"1"), delete(b"b"), swap(b"c", None, b"2")]
    assert commands.encode_batch(5, 6, 7, 8, run) == bytes.fromhex(
        "9d 05 06 07 08  00 c40161 c40131  01 c40162  02 c40163 c0 c40132"
    )


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [1, 2, 3],
        [1, 2, 3, -1, *delete(b"k")],
        [1.0, 2, 3, 4, *delete(b"k")],
        [True, 2, 3, 4, *delete(b"k")],
        [1, 2, 3, 4, 9, b"k"],
        [1, 2, 3, 4, True, b"k"],
        [1, 2, 3, 4, b"op", b"k"],
        [1, 2, 3, 4, {}, b"k"],
        [1, 2, 3, 4, commands.PUT, b"k"],
        [1, 2, 3, 4, commands.DELETE],
        [1, 2, 3, 4, commands.DELETE, "text"],
        [1, 2, 3, 4, commands.DELETE, b""],
        [1, 2, 3, 4, commands.DELETE, b"k" * 17],
        [1, 2, 3, 4, commands.DELETE, b"x of another shard"[:9]],
        [1, 2, 3, 4, commands.DELETE, []],
        [1, 2, 3, 4, commands.PUT, b"k", "text"],
        [1, 2, 3, 4, commands.PUT, b"k", None],
        [1, 2, 3, 4, commands.PUT, b"k", b"v" * 65],
        [1, 2, 3, 4, commands.CAS, b"k", "text", b"v"],
        [1, 2, 3, 4, commands.CAS, b"k", b"v", None],
        [1, 2, 3, 4, [commands.PUT, b"k", b"v"]],
        {1: 2},
        7,
    ],
)
def test_a_batch_that_breaks_a_rule_is_refused(fields: Any) -> None:
    with pytest.raises(InvalidArgument):
        decode(1, msgpack.packb(fields))


@given(encoded=st.binary(max_size=64), count=st.integers(0, 5))
def test_garbage_is_refused_and_nothing_else_happens(encoded: bytes, count: int) -> None:
    with suppress(InvalidArgument):
        decode(count, encoded)


@given(run=st.lists(COMMANDS, min_size=1, max_size=4), data=st.data())
def test_a_batch_cut_short_or_continued_is_refused(
    run: list[commands.Command], data: st.DataObject
) -> None:
    count, encoded = batch(*run)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(InvalidArgument):
        decode(count, encoded[:cut])
    with pytest.raises(InvalidArgument):
        decode(count, encoded + b"\x00")


@pytest.mark.parametrize("count", [0, 1, 3, commands.COMMANDS_MAX + 1, 1 << 60])
def test_a_false_count_is_refused(count: int) -> None:
    _, encoded = batch(delete(b"a"), delete(b"b"))
    with pytest.raises(InvalidArgument):
        decode(count, encoded)


def test_a_batch_holds_so_many_commands_and_no_more() -> None:
    count, encoded = batch(*[swap(b"k", b"", b"")] * commands.COMMANDS_MAX)
    assert len(decode(count, encoded)) == count
    count, encoded = batch(*[delete(b"k")] * (commands.COMMANDS_MAX + 1))
    with pytest.raises(InvalidArgument):
        decode(count, encoded)


@pytest.mark.parametrize(
    "bomb",
    [
        b"\xdd\xff\xff\xff\xff",  # an array of 2^32 items
        b"\xdd\x00\x00\x40\x00" * 1000,  # arrays in arrays, each with room for 16,384
        b"\xdc\x40\x00" + b"\x90" * 100_000,  # many empty arrays
        b"\xdc\x40\x00" + b"\x80" * 100_000,
        b"\x91" * 100_000,
        b"\x9f" + b"\xc6\xff\xff\xff\xff",
    ],
)
def test_a_hostile_batch_is_refused_before_it_is_built(bomb: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InvalidArgument):
            commands.decode_batch(bomb, 1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000


def test_a_refusal_names_the_command() -> None:
    count, encoded = batch(delete(b"a"), put(b"b", b"v" * 65))
    with pytest.raises(InvalidArgument, match="command 1: a value must be at most 64 bytes"):
        decode(count, encoded)


BATCHES = st.lists(st.tuples(st.integers(1, 4096), st.binary(max_size=40)), max_size=6)


@given(first=st.integers(1, 1 << 60), batches=BATCHES)
def test_an_entry_comes_back_as_it_was(first: int, batches: list[tuple[int, bytes]]) -> None:
    payload = commands.encode_entry(first, batches, LIMITS)
    total = sum(count for count, _ in batches)
    assert commands.decode_entry(payload) == (first, total, LIMITS, batches)
    assert commands.last_revision(payload) == first + total - 1


def test_the_bytes_of_an_entry_are_pinned() -> None:
    """Logs on disk hold them."""
    payload = commands.encode_entry(5, [(2, b"ab")], ApplyLimits(1, 2, 3, 4))
    assert payload == bytes.fromhex(
        "01 0000000000000005 00000002"
        "00000001 00000002 0000000000000003 00000004"
        "00000002 00000002 6162"
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: b"",
        lambda p: p[:10],
        lambda p: p[:-1],
        lambda p: p + b"\x00",
        lambda p: b"\x02" + p[1:],
        lambda p: p[:12] + b"\x07" + p[13:],
    ],
)
def test_an_entry_that_no_leader_makes_stops_the_replica(damage: Any) -> None:
    with pytest.raises(Internal):
        commands.decode_entry(damage(commands.encode_entry(5, [(2, b"ab")], LIMITS)))


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\x02" + bytes(40)])
def test_the_last_revision_of_no_entry_is_refused(payload: bytes) -> None:
    with pytest.raises(Internal):
        commands.last_revision(payload)


def test_limits_come_from_the_configuration() -> None:
    config = LimitsConfig(
        key_bytes_max=1, value_bytes_max=1 << 40, session_ttl_s=1.5, sessions_per_shard_max=7
    )
    assert ApplyLimits.of(config) == (1, U32_MAX, 1500, 7)
    assert ApplyLimits.of(LimitsConfig(session_ttl_s=1e-9)).session_ttl_ms == 1
    assert commands.encode_entry(1, [], ApplyLimits.of(LimitsConfig(session_ttl_s=1e300)))

"""The formats: what comes back as it was, and bytes that must never change."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kv_model import LIMITS, own_all, owns

from kvstore.config import LimitsConfig
from kvstore.errors import Internal, InvalidArgument
from kvstore.kv import commands
from kvstore.kv.commands import CAS, DELETE, PUT
from kvstore.kv.limits import U32_MAX, ApplyLimits

U64 = st.integers(0, (1 << 64) - 1)
KEYS = st.binary(min_size=1, max_size=16).filter(owns)
VALUES = st.binary(max_size=64)
COMMANDS = st.one_of(
    st.tuples(st.just(PUT), KEYS, VALUES),
    st.tuples(st.just(DELETE), KEYS),
    st.tuples(st.just(CAS), KEYS, st.none() | VALUES, VALUES),
)


@given(session=st.tuples(U64, U64), seq=U64, ack=U64, run=st.lists(COMMANDS, min_size=1))
def test_a_batch_comes_back_as_it_was(
    session: tuple[int, int], seq: int, ack: int, run: list[commands.Command]
) -> None:
    encoded = commands.encode_batch(*session, seq, ack, run)
    opened = commands.decode_batch(encoded, len(run))
    assert (opened.session, opened.seq, opened.ack_below) == (session, seq, ack)
    assert commands.decode_commands(opened, LIMITS, own_all) == run


NEARLY = st.one_of(
    st.sampled_from([PUT, False, 0.0, DELETE, CAS, None, b"", b"k", b"k" * 65, "k", [], b"\xff"]),
    KEYS,
)


@given(fields=st.lists(NEARLY, max_size=9), announced=st.integers(1, 3), is_owner=st.booleans())
def test_the_quick_way_for_puts_refuses_nothing_and_lets_nothing_pass(
    fields: list[Any], announced: int, is_owner: bool
) -> None:
    """It says the same as the way for all commands, or nothing."""
    opened = commands.decode_batch(msgpack.packb([1, 2, 3, 3, *fields]), announced)
    puts = commands.decode_puts(opened, LIMITS, lambda keys: is_owner)
    try:
        run = commands.decode_commands(opened, LIMITS, lambda keys: is_owner)
    except InvalidArgument:
        run = []
    if run and all(command[0] == PUT for command in run):
        assert puts == ([command[1] for command in run], [command[2] for command in run])
    else:
        assert puts is None


def test_the_bytes_of_a_batch_are_pinned() -> None:
    """Clients and nodes of different versions exchange them."""
    run = [(PUT, b"a", b"1"), (DELETE, b"b"), (CAS, b"c", None, b"2")]
    assert commands.encode_batch(5, 6, 7, 8, run) == bytes.fromhex(
        "9d 05 06 07 08  00 c40161 c40131  01 c40162  02 c40163 c0 c40132"
    )


@pytest.mark.parametrize(
    "bomb",
    [
        b"\xdd\xff\xff\xff\xff",  # an array of 2^32 items
        b"\xdd\x00\x00\x40\x00" * 1000,  # arrays in arrays, each with room for 16,384
        b"\x95" + bytes(4) + b"\xdc\xea\x60" * 1000 + bytes(60_000),  # each claim could be true
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
    encoded = commands.encode_batch(0, 0, 0, 0, [(DELETE, b"a"), (PUT, b"b", b"v" * 65)])
    opened = commands.decode_batch(encoded, 2)
    with pytest.raises(InvalidArgument, match="command 1: a value must be at most 64 bytes"):
        commands.decode_commands(opened, LIMITS, own_all)


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


@given(st.lists(st.integers(0, 3) | st.binary(max_size=3) | st.none() | st.just([]), max_size=12))
def test_short_and_long_batches_are_read_alike(fields: list[object]) -> None:
    """A short one is decoded at once, a long one field by field; replicas must not differ."""
    encoded = msgpack.packb(fields)
    assert commands._decode_flat(encoded) == commands._decode_long(encoded) == fields


@given(st.binary(max_size=40))
def test_whatever_the_bytes_both_ways_say_the_same(encoded: bytes) -> None:
    told = []
    for decode in (commands._decode_flat, commands._decode_long):
        try:
            told.append(decode(encoded))
        except (InvalidArgument, ValueError, TypeError, msgpack.UnpackException):
            told.append(None)
    assert told[0] == told[1]

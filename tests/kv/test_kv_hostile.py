"""Whatever bytes a client sends, they are refused as a whole or run as a whole."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kv_model import FOREIGN, LIMITS, START_MS, Replica, outcome

from kvstore.errors import Internal, InvalidArgument
from kvstore.hlc import revision_at
from kvstore.kv import commands, replies
from kvstore.kv.commands import CAS, COMMANDS_MAX, DELETE, PUT

START = revision_at(START_MS)
GOOD = commands.encode_batch(0, 0, 0, 0, [(PUT, b"good", b"1")])
MAX_KEY, MAX_VALUE = b"k" * LIMITS.key_bytes_max, b"v" * LIMITS.value_bytes_max

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary()
    | st.text()
)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(SCALARS, inner))


def refused_alone(encoded: bytes, count: int) -> str:
    """Apply ``encoded`` between two good batches; returns why it was refused."""
    replica = Replica()
    before, reply, after = replica.apply(START, [(1, GOOD), (count, encoded), (1, GOOD)])
    assert outcome(before, 1) == (START, [True])
    assert outcome(after, 1) == (START + 1 + count, [True])
    replica.write()
    assert replica.rows().keys() == {b"good"}
    error = replies.decode_reply(reply, count)
    assert isinstance(error, InvalidArgument)
    assert not error.may_have_applied
    return error.message


@pytest.mark.parametrize(
    "bad",
    [
        (PUT, b"", b"v"),
        (PUT, MAX_KEY + b"k", b"v"),
        (PUT, b"k", MAX_VALUE + b"v"),
        (PUT, FOREIGN, b"v"),
        (PUT, "text", b"v"),
        (PUT, b"k", "text"),
        (PUT, b"k", None),
        (PUT, b"k"),
        (PUT, b"k", b"v", b"w"),
        (False, b"k", b"v"),
        (0.0, b"k", b"v"),
        (DELETE,),
        (DELETE, b""),
        (DELETE, 7),
        (DELETE, b"k", b"v"),
        (CAS, b"k", b"v"),
        (CAS, b"k", "text", b"v"),
        (CAS, b"k", None, None),
        (CAS, b"k", b"e", MAX_VALUE + b"v"),
        (CAS, FOREIGN, None, b"v"),
        (3, b"k", b"v"),
        (-1, b"k"),
        ([PUT, b"k", b"v"],),
        (),
    ],
    ids=repr,
)
def test_a_bad_command_takes_its_whole_batch_along(bad: tuple[Any, ...]) -> None:
    fine = (PUT, b"fine", b"v")
    encoded = msgpack.packb([0, 0, 0, 0, *fine, *bad])
    assert refused_alone(encoded, 2)
    assert refused_alone(msgpack.packb([0, 0, 0, 0, *bad, *fine]), 2)


def test_the_largest_keys_and_values_are_fine() -> None:
    replica = Replica()
    batch = [(PUT, MAX_KEY, MAX_VALUE), (CAS, MAX_KEY, MAX_VALUE, b""), (DELETE, MAX_KEY)]
    (reply,) = replica.apply(START, [(3, commands.encode_batch(0, 0, 0, 0, batch))])
    assert outcome(reply, 3) == (START, [True] * 3)


@pytest.mark.parametrize("count", [2, 3, 5, COMMANDS_MAX, COMMANDS_MAX + 1, 2**31])
def test_a_count_that_is_not_what_follows_is_refused(count: int) -> None:
    assert refused_alone(commands.encode_batch(0, 0, 0, 0, [(PUT, b"k", b"v")] * 4), count)


def test_a_batch_may_not_hold_more_commands_than_the_bound() -> None:
    full = commands.encode_batch(0, 0, 0, 0, [(CAS, b"k", b"v", b"v")] * COMMANDS_MAX)
    assert commands.decode_batch(full, COMMANDS_MAX).announced == COMMANDS_MAX
    over = commands.encode_batch(0, 0, 0, 0, [(DELETE, b"k")] * (COMMANDS_MAX + 1))
    assert refused_alone(over, COMMANDS_MAX + 1)
    assert refused_alone(over, COMMANDS_MAX)


@pytest.mark.parametrize(
    "head",
    [
        *(
            [*[1] * place, wrong, *[1] * (3 - place)]
            for place in range(4)
            for wrong in (-1, True, b"")
        ),
        [0, 0, 0],
        [],
    ],
    ids=repr,
)
def test_a_head_that_is_not_four_unsigned_integers_is_refused(head: list[Any]) -> None:
    body = [PUT, b"k", b"v"] if len(head) == 4 else []
    assert refused_alone(msgpack.packb(head + body), 1)


@pytest.mark.parametrize("cut", range(len(GOOD)))
def test_every_cut_of_a_batch_is_refused(cut: int) -> None:
    assert refused_alone(GOOD[:cut], 1)


def test_bytes_after_the_batch_are_refused() -> None:
    assert refused_alone(GOOD + b"\x00", 1)


@pytest.mark.parametrize(
    "header", [b"\xdd\xff\xff\xff\xff", b"\xdc\xff\xff", b"\xdf\xff\xff\xff\xff"]
)
def test_containers_that_claim_to_be_huge_allocate_nothing(header: bytes) -> None:
    assert refused_alone(header * 1000, 1)
    assert refused_alone(b"\x95\x00\x00\x00\x00" + header * 1000, 1)


@settings(max_examples=200)
@given(encoded=st.binary(max_size=60) | JSON.map(msgpack.packb), count=st.integers(0, 5))
@example(encoded=b"\x91" * 100_000, count=1)
@example(encoded=b"\x94\x00\x00\x00\x00", count=0)
@example(encoded=b"\x95\x00\x00\x00\x00\xc7\x0c\xff" + bytes(12), count=1)
def test_anything_is_answered_with_the_same_bytes_on_every_replica(
    encoded: bytes, count: int
) -> None:
    one, other = Replica(), Replica()
    told = one.apply(START, [(count, encoded), (1, GOOD)])
    assert other.apply(START, [(count, encoded), (1, GOOD)]) == told
    reply = replies.decode_reply(told[0], max(count, 1))
    assert isinstance(reply, InvalidArgument) or len(reply.effects) == count
    assert outcome(told[1], 1) == (START + count, [True])


def test_an_entry_that_no_leader_makes_stops_the_replica() -> None:
    payload = commands.encode_entry(START, [(1, GOOD)], LIMITS)
    newer = bytes([payload[0] + 1]) + payload[1:]
    for bad in (b"", payload[:-1], payload + b"\x00", payload[:20], newer):
        replica = Replica()
        with pytest.raises(Internal):
            replica.machine.apply(1, 1, bad)
    for bad in (b"", payload[:20], newer):
        with pytest.raises(Internal):
            commands.last_revision(bad)

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kv_model import START_MS, Replica, Sent

from kvstore.errors import Internal
from kvstore.hlc import revision_at
from kvstore.kv import values
from kvstore.kv.commands import DELETE, PUT

U64 = st.integers(0, (1 << 64) - 1)


@given(created=U64, modified=U64, lease=U64, value=st.binary())
def test_a_value_comes_back_as_it_was(
    created: int, modified: int, lease: int, value: bytes
) -> None:
    stored = values.encode(created, modified, lease, value)
    assert values.decode(stored) == (created, modified, lease, value)
    over = values.encode_over(stored, lease, modified, value + b"more")
    assert values.decode(over) == (created, lease, modified, value + b"more")
    assert len(stored) == values.HEADER_BYTES + len(value)


@given(one=st.binary(max_size=3), other=st.binary(max_size=3))
def test_a_stored_value_is_compared_by_its_bytes(one: bytes, other: bytes) -> None:
    assert values.is_value(values.encode(1, 2, 3, one), other) == (one == other)


def test_the_stored_bytes_are_pinned() -> None:
    assert values.encode(1, 2, 3, b"v") == bytes.fromhex(
        "01 0000000000000001 0000000000000002 0000000000000003 76"
    )


@pytest.mark.parametrize("stored", [b"", b"\x01", b"\x02" + bytes(24), bytes(25)])
def test_an_unknown_form_is_refused(stored: bytes) -> None:
    with pytest.raises(Internal, match="format"):
        values.decode(stored)


def test_the_engine_contents_of_a_shard_are_pinned() -> None:
    """Disks and snapshots hold them, and replicas of two versions must not differ."""
    start = revision_at(START_MS)
    replica = Replica()
    sent = Sent((start, 7), 2, 1, ((PUT, b"k", b"v"), (DELETE, b"gone")))
    replica.apply_config(b"voters")
    replica.send(start, sent)
    replica.write()
    first, second = f"{start:016x}", f"{start + 1:016x}"
    assert replica.contents() == [
        (
            b"\x00\x05\x00applied",
            bytes.fromhex(f"02 {2:016x} {1:016x} {second} {0:016x} {1:016x} {2:016x}"),
        ),
        (b"\x00\x05\x00config", b"voters"),
        (
            b"\x00\x05\x01" + bytes.fromhex(f"{first} {7:016x}"),
            bytes.fromhex(f"94 01 cf{first} 01  81 02 c40e 93 00 cf{first} c40102"),
        ),
        (b"\x00\x05\x03k", bytes.fromhex(f"01 {first} {first} {0:016x} 76")),
    ]

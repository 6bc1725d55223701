from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.errors import Internal
from kvstore.kv import values

U64 = st.integers(0, (1 << 64) - 1)


@given(created=U64, modified=U64, lease=U64, value=st.binary())
def test_a_value_comes_back_as_it_was(
    created: int, modified: int, lease: int, value: bytes
) -> None:
    stored = values.encode(created, modified, lease, value)
    assert values.decode(stored) == (created, modified, lease, value)
    assert values.created_revision_of(stored) == created


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

"""Bounded msgpack: what anybody may send, and what it may make us build."""

from __future__ import annotations

import tracemalloc

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.errors import ProtocolError
from kvstore.wire.codec import ARRAY, BYTES, NIL, TEXT, UINT, check_fields, pack, unpack

scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary()
    | st.floats(allow_nan=False)
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.binary(), inner),
    max_leaves=20,
)


@given(values)
def test_what_is_packed_comes_back(value: object) -> None:
    assert unpack(pack(value)) == value


@given(st.binary(max_size=100))
def test_any_bytes_give_a_value_or_a_protocol_error(data: bytes) -> None:
    try:
        value = unpack(data)
    except ProtocolError:
        return
    assert repr(unpack(pack(value))) == repr(value)  # by repr: a NaN is not equal to itself


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "incomplete"),
        (b"\x92\x01", "incomplete"),
        (b"\x01\x02", "ExtraData"),
        (b"\xc1", "FormatError"),
        (b"\xa1\xff", "UnicodeDecodeError"),
        (b"\x81\x01\x02", "not allowed for map key"),
        (b"\x81\x90\x02", "not allowed for map key"),
        (b"\xc7\x00\x05", "extension type 5"),
        (b"\xd6\xff\x00\x00\x00\x01", "max_ext_len"),
        (b"\x91" * 2000 + b"\xc0", "StackError"),
        (b"\x81\xa1k" * 2000 + b"\xc0", "StackError"),
        (b"\xdd\xff\xff\xff\xff", "max_array_len"),
        (b"\xdf\xff\xff\xff\xff", "max_map_len"),
        (b"\xc6\xff\xff\xff\xff", "incomplete"),
        (b"\xdb\xff\xff\xff\xff", "incomplete"),
    ],
)
def test_malformed(data: bytes, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        unpack(data)


def test_numbers_as_keys_only_where_expected() -> None:
    data = msgpack.packb({7: "n1"})
    assert unpack(data, any_keys=True) == {7: "n1"}
    with pytest.raises(ProtocolError):
        unpack(data)
    with pytest.raises(ProtocolError):
        unpack(b"\x81\x90\x02", any_keys=True)  # a key that cannot be hashed


def test_an_array_longer_than_its_message_allows() -> None:
    assert unpack(pack([0] * 10), items_max=10) == [0] * 10
    with pytest.raises(ProtocolError, match="11 exceeds max_array_len"):
        unpack(pack([0] * 11), items_max=10)
    with pytest.raises(ProtocolError, match="2 exceeds max_map_len"):
        unpack(pack({"a": 1, "b": 2}), items_max=1)


def test_more_containers_than_the_message_has() -> None:
    assert unpack(pack([1, [2]]), containers_max=2) == [1, [2]]
    with pytest.raises(ProtocolError, match="more than 2 arrays and maps"):
        unpack(pack([1, [2], {}]), containers_max=2)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xdd\x00\x00\x10\x00" + b"\x90" * (1 << 20), id="a million empty arrays"),
        pytest.param(b"\xdd\x00\x00\x10\x00" + b"\x80" * (1 << 20), id="a million empty maps"),
        pytest.param(b"\xdd\x00\x0f\xff\xff" * (1 << 18), id="nested promises"),
        pytest.param(b"\xdd\x00\x00\x10\x00" * 1020, id="nested promises, each within bounds"),
        pytest.param(b"\xdc\x01\xff" * 170, id="nested promises in a short message"),
    ],
)
def test_a_small_message_cannot_ask_for_much_memory(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            unpack(data, items_max=4096, containers_max=2)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < (1 << 20) + 2 * len(data)


def test_the_input_is_never_shown() -> None:
    with pytest.raises(ProtocolError) as caught:
        check_fields(["secret"], "hello", UINT)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({}, "thing must be an array, not dict"),
        (None, "thing must be an array, not NoneType"),
        ([1], "thing must have 3 fields, not 1"),
        ([1, "a", 3], "field 2 must be NoneType or bytes, not int"),
        ([-1, "a", b""], "an integer is negative"),
        ([True, "a", b""], "field 0 must be int, not bool"),
        ([1.0, "a", b""], "field 0 must be int, not float"),
    ],
)
def test_fields_are_checked(value: object, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        check_fields(value, "thing", UINT, TEXT, BYTES | NIL)


def test_fields_of_a_later_version_are_ignored() -> None:
    assert check_fields([1, [], "new"], "thing", UINT, ARRAY) == [1, [], "new"]

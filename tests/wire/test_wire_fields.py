"""What is on this side of each bound; the far side is tested with what the fields are in."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from kvstore.errors import ProtocolError
from kvstore.ids import NodeId
from kvstore.swim.claims import Metadata
from kvstore.wire import fields

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("read", "good"),
    [
        (fields.node_id, ["n", "n" * 64, "0._-", "Node-1.example_x"]),
        (fields.node_id_or_none, [None, "n"]),
        (fields.address, ["h:1", "[::1]:65535", "h" * 253 + ":1"]),
        (fields.text, ["", " ", "žluť", "x" * 10**6]),
        (fields.flag, [True, False]),
        (fields.whole, [0, 2**63 - 1]),
        (fields.real, [0, 0.0, 5e-324, 1.7e308, 2**63]),
        (fields.weight, [0.01, 1, 100, 100.0]),
    ],
)
def test_good_fields_come_through(read: Callable[[Any, str], Any], good: list[Any]) -> None:
    assert [read(value, "it") for value in good] == good


def test_numbers_of_fewer_bits_and_texts_of_fewer_characters() -> None:
    assert fields.whole(255, "it", 8) == 255
    with pytest.raises(ProtocolError, match=r"^it must be a whole number from 0 to 2\^8-1$"):
        fields.whole(256, "it", 8)
    assert fields.text("ab", "it", 2) == "ab"
    with pytest.raises(ProtocolError, match=r"^it has 3 characters, more than 2$"):
        fields.text("abc", "it", 2)


def test_a_zero_has_no_sign() -> None:
    assert math.copysign(1.0, fields.real(-0.0, "it")) == 1.0


def test_only_an_open_array_may_have_more_fields() -> None:
    assert fields.array([1, 2], "it", 2) == [1, 2]
    assert fields.array([1, 2, 3], "it", 2, is_open=True) == [1, 2]
    for value, is_open in (([1, 2, 3], False), ([1], True), ((1, 2), True), (None, True)):
        with pytest.raises(ProtocolError, match="it must be an array of 2 fields"):
            fields.array(value, "it", 2, is_open=is_open)


def test_what_a_node_says_of_itself_comes_back() -> None:
    node = NodeId("n1")
    said = Metadata("h:1", "a", 2.0, "kv")
    row = list(fields.metadata_row(said) or ())
    assert fields.metadata(row, "it", node) == said
    assert fields.metadata([*row, "later"], "it", node, is_open=True) == said
    assert fields.metadata_row(None) is None
    with pytest.raises(ProtocolError, match="it: metadata of n1: it must be an array of 4 fields"):
        fields.metadata([*row, "later"], "it", node)

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.errors import InvalidArgument, ProtocolError, SessionExpired
from kvstore.kv import replies


@given(first=st.integers(0, (1 << 64) - 1), effects=st.lists(st.booleans(), min_size=1))
def test_effects_come_back_in_order(first: int, effects: list[bool]) -> None:
    body = replies.encode_done(first, effects)
    assert replies.decode_reply(body, len(effects)) == (first, effects)


def test_the_bytes_are_pinned() -> None:
    assert replies.encode_done(5, [True, False, False]) == bytes.fromhex("93 00 05 c40104")
    assert replies.encode_done(5, [True] * 9) == bytes.fromhex("93 00 05 c40201ff")
    assert replies.encode_all_done(5, 9) == bytes.fromhex("93 00 05 c40201ff")


def test_a_large_batch_has_a_small_reply() -> None:
    assert len(replies.encode_done(1 << 60, [True] * 4096)) < 530


@pytest.mark.parametrize(
    "error",
    [
        InvalidArgument("no"),
        SessionExpired("gone", may_have_applied=True),
        SessionExpired("too old", welcome_at=(1 << 64) - 1),
    ],
)
def test_a_refusal_comes_back_as_the_error(error: InvalidArgument | SessionExpired) -> None:
    found = replies.decode_reply(replies.encode_refused(error), 3)
    assert type(found) is type(error)
    assert vars(found) == vars(error)


@pytest.mark.parametrize(
    "fields",
    [
        None,
        [],
        [0, 5],
        [0, -1, b"\x01"],
        [0, 5, "\x01"],
        [0, 5, b""],
        [0, 5, b"\x00\x01"],
        [0, 5, b"\x08"],
        [1, "code", "message"],
        [1, "code", b"message", False],
        [1, "code", "message", 0],
        [1, "code", "message", False, 5],
        [1, "session_expired", "message", False, 0],
        [1, "session_expired", "message", False, -1],
        [2, 5, b"\x01"],
        [0, 5, [True, True, True]],
        {},
    ],
)
def test_what_is_no_reply_to_three_commands_is_refused(fields: Any) -> None:
    with pytest.raises(ProtocolError):
        replies.decode_reply(msgpack.packb(fields), 3)


@given(body=st.binary(max_size=40), count=st.integers(1, 20))
def test_garbage_is_refused_and_nothing_else_happens(body: bytes, count: int) -> None:
    with suppress(ProtocolError):
        replies.decode_reply(body, count)

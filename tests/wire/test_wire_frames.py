"""Frames: any stream cut anywhere gives the same frames; a bad length is never waited for."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.errors import ProtocolError
from kvstore.wire.frames import HEADER_BYTES, Frame, FrameDecoder, decode_header, encode_frame

frames = st.builds(
    Frame,
    kind=st.integers(0, 255),
    flags=st.integers(0, 255),
    request=st.integers(0, 2**64 - 1),
    body=st.binary(max_size=200),
)


def encoded(frame: Frame) -> bytes:
    return encode_frame(frame.kind, frame.request, frame.body, frame.flags)


def test_the_format_is_pinned() -> None:
    frame = encode_frame(17, 0x0102030405060708, b"ab", flags=3)
    assert frame == bytes.fromhex("0000000c 11 03 0102030405060708 6162")
    assert decode_header(frame) == (17, 0x0102030405060708)


@given(st.lists(frames, max_size=20), st.data())
def test_a_stream_cut_anywhere_gives_the_same_frames(
    sent: list[Frame], data: st.DataObject
) -> None:
    stream = b"".join(map(encoded, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=30)))
    decoder = FrameDecoder(1000)
    received: list[Frame] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += decoder.feed(stream[start:end])
    assert received == sent
    assert decoder.buffered_bytes == 0


def test_byte_by_byte() -> None:
    decoder = FrameDecoder(100)
    stream = encode_frame(16, 1, b"first") + encode_frame(17, 2, b"")
    received = [frame for byte in stream for frame in decoder.feed(bytes([byte]))]
    assert received == [Frame(16, 0, 1, b"first"), Frame(17, 0, 2, b"")]


@pytest.mark.parametrize("length", [0, 9, 101, 2**32 - 1])
def test_a_false_length_is_refused_as_soon_as_it_is_there(length: int) -> None:
    decoder = FrameDecoder(100)
    stream = struct.pack(">I", length)
    assert decoder.feed(stream[:3]) == []
    assert decoder.error is None
    assert decoder.feed(stream[3:]) == []
    assert isinstance(decoder.error, ProtocolError)
    assert decoder.error.message == f"frame length {length} is not within 10 to 100"


@pytest.mark.parametrize("length", [9, 101])
@pytest.mark.parametrize("cut", [0, 5, 18, 20, 22, 25])
def test_what_precedes_a_false_length_is_good_and_what_follows_is_not(
    length: int, cut: int
) -> None:
    good = encode_frame(16, 1, b"good")
    stream = good + struct.pack(">IBBQ", length, 1, 0, 1) + good
    decoder = FrameDecoder(100)
    assert decoder.feed(stream[:cut]) + decoder.feed(stream[cut:]) == [Frame(16, 0, 1, b"good")]
    assert decoder.error is not None
    assert decoder.feed(good) == []
    assert decoder.buffered_bytes == 0


def test_the_bounds_themselves_are_allowed() -> None:
    smallest, largest = encode_frame(1, 1, b""), encode_frame(1, 1, b"x" * 90)
    assert len(FrameDecoder(100).feed(smallest + largest)) == 2


def test_a_promise_of_much_costs_nothing() -> None:
    decoder = FrameDecoder(16 << 20)
    assert decoder.feed(struct.pack(">I", 16 << 20)) == []
    assert decoder.buffered_bytes == 4


def test_only_the_incomplete_frame_is_held() -> None:
    decoder = FrameDecoder(1000)
    assert len(decoder.feed(encode_frame(1, 1, b"x" * 500) + b"\0\0\0")) == 1
    assert decoder.buffered_bytes == 3


def test_the_bound_can_be_raised_after_the_handshake() -> None:
    decoder = FrameDecoder(20)
    decoder.feed(encode_frame(1, 0, b""))
    decoder.frame_bytes_max = 1000
    (frame,) = decoder.feed(encode_frame(1, 0, b"x" * 500))
    assert len(frame.body) == 500


def test_a_body_outlives_the_buffer_it_came_in() -> None:
    decoder = FrameDecoder(1000)
    stream = encode_frame(1, 1, b"a" * 100)
    decoder.feed(stream[:50])
    (frame,) = decoder.feed(stream[50:])
    decoder.feed(encode_frame(1, 1, b"b" * 100)[:60])
    assert frame.body == b"a" * 100
    assert len(stream) == HEADER_BYTES + 100


@pytest.mark.parametrize("at_once", [1, 2, 7])
def test_frames_taken_a_few_at_a_time_are_the_same(at_once: int) -> None:
    stream = b"".join(encode_frame(1, n, b"x" * n) for n in range(10)) + encode_frame(1, 10, b"yz")
    decoder = FrameDecoder(100)
    found = decoder.feed(stream[:-1], at_once)
    assert len(found) == at_once
    while decoder.is_behind:
        assert decoder.buffered_bytes > 0
        more = decoder.more(at_once)
        assert len(more) <= at_once
        found += more
    assert found == FrameDecoder(100).feed(stream)[:-1]
    assert decoder.feed(stream[-1:]) == [Frame(1, 0, 10, b"yz")]


def test_what_is_fed_while_something_waits_comes_behind_it() -> None:
    stream = b"".join(encode_frame(1, n, b"body") for n in range(4))
    decoder = FrameDecoder(100)
    found = decoder.feed(stream[:40], 1) + decoder.feed(stream[40:], 0)
    assert decoder.is_behind
    assert found + decoder.more(9) == FrameDecoder(100).feed(stream)
    assert not decoder.is_behind

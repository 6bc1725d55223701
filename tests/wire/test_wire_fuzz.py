"""Any bytes at all: each decoder gives a value that it can write again, or its own error.

Drawn are plain bytes, well-formed msgpack of any shape, and above all the good cases of the
corpus, damaged in the ways of a bad line or a bad mind. A find is shrunk and, with
``WIRE_KEEP=1``, added to the corpus (see :mod:`wire_decoders`).
"""

from __future__ import annotations

import os
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_decoders import DECODERS, FRAME_BYTES_MAX, decode_stream, encode_stream, keep, load

from kvstore.errors import KVError, ProtocolError
from kvstore.wire.codec import CONTAINERS_MAX, pack
from kvstore.wire.frames import Frame, FrameDecoder

if TYPE_CHECKING:
    from wire_decoders import Decoder

EXAMPLES = int(os.environ.get("WIRE_EXAMPLES", "100"))
SAMPLES = {name: [case.data for case in load(name) if len(case.data) < 2000] for name in DECODERS}
EVERYTHING = sorted({data for samples in SAMPLES.values() for data in samples})
LIES = [
    *(b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"),
    *(b"\xdb\xff\xff\xff\xff", b"\xc9\xff\xff\xff\xff\x05", b"\xdc\xff\xff", b"\x91" * 600),
    *(b"\xc1", b"\xd4\x05\x00", b"\xcf" + b"\xff" * 8, b"\xd3\x80" + bytes(7), b"\x81\x90\xc0"),
    *(b"\xcb\x7f\xf8" + bytes(6), b"\xa2\xff\xfe", b"\0\0\0\0", b"\xff\xff\xff\xff"),
]
"""Lengths of what is not there, depth, and what few expect."""

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.floats()
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=30,
)


@st.composite
def damaged(draw: st.DrawFn, name: str) -> bytes:
    data = bytearray(draw(st.sampled_from(SAMPLES[name])))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 8)))
        match draw(st.sampled_from(["flip", "cut", "remove", "repeat", "insert", "lie", "splice"])):
            case "flip" if start < len(data):
                data[start] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[start:]
            case "remove":
                del data[start:end]
            case "repeat":
                data[start:start] = data[start:end] * draw(st.integers(1, 5))
            case "insert":
                data[start:end] = draw(st.binary(max_size=8))
            case "lie":
                data[start:end] = draw(st.sampled_from(LIES))
            case "splice":
                data[start:] = draw(st.sampled_from(EVERYTHING))[start:]
    return bytes(data)


def inputs(name: str) -> st.SearchStrategy[bytes]:
    return st.one_of(damaged(name), values.map(pack), st.binary(max_size=300))


def check(decoder: Decoder, data: bytes) -> None:
    """It is read or refused; what is read says the same when it is written and read again."""
    refusal, value = None, None
    try:
        value = decoder.decode(data)
    except KVError as error:
        refusal = error
    if refusal is not None:
        assert type(refusal) in decoder.errors, repr(refusal)
        assert refusal.message
        assert "\n" not in refusal.message
        return
    again = decoder.decode(decoder.encode(value))
    assert repr(again) == repr(value)  # a NaN is not equal to itself


@pytest.mark.parametrize("name", DECODERS)
def test_any_bytes_are_read_or_refused(name: str) -> None:
    tried = [b""]

    @settings(max_examples=EXAMPLES)
    @given(inputs(name))
    def run(data: bytes) -> None:
        tried[0] = data
        check(DECODERS[name], data)

    try:
        run()
    except BaseException:
        if os.environ.get("WIRE_KEEP"):
            keep(name, tried[0])
        raise


# -- memory ---------------------------------------------------------------------------------

CONTAINER_BYTES = 80
"""What Python takes for an empty list or map and its place in another."""
FIXED_BYTES = 1 << 20


def memory_bytes_max(data: bytes) -> int:
    """Copies of the bytes, and containers, of which a message has a bounded number."""
    return FIXED_BYTES + 6 * len(data) + CONTAINER_BYTES * min(len(data), CONTAINERS_MAX + 1)


def peak_bytes(decoder: Decoder, data: bytes) -> int:
    tracemalloc.start()
    try:
        check(decoder, data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


MEGABYTE = 1 << 20
GREEDY = {
    "an array of 2^32": b"\xdd\xff\xff\xff\xff",
    "a map of 2^32": b"\xdf\xff\xff\xff\xff",
    "bytes of 2^32": b"\xc6\xff\xff\xff\xff",
    "text of 2^32": b"\xdb\xff\xff\xff\xff",
    "an extension of 2^32": b"\xc9\xff\xff\xff\xff\x05",
    "a frame of 2^32": b"\xff\xff\xff\xff",
    "the largest frame, of which the header is there": b"\0\0\x10\0\x11",
    "arrays in arrays, a megabyte": b"\x91" * MEGABYTE,
    "arrays of 2^32 in arrays": b"\xdd\xff\xff\xff\xff" * (MEGABYTE // 5),
    "as many as may be, in arrays": b"\xdd\x00\x01\x00\x00" * (MEGABYTE // 5),
    "a million empty arrays in one": b"\xdd\x00\x10\x00\x00" + b"\x90" * MEGABYTE,
    "a million empty arrays in sixteen": (b"\xdc\x00\x10")
    + (b"\xdd\x00\x01\x00\x00" + b"\x90" * (1 << 16)) * 16,
    "a million empty maps in sixteen": (b"\xdc\x00\x10")
    + (b"\xdd\x00\x01\x00\x00" + b"\x80" * (1 << 16)) * 16,
    "four million empty arrays": (b"\xdc\x00\x40")
    + (b"\xdd\x00\x01\x00\x00" + b"\x90" * (1 << 16)) * 64,
}


@pytest.mark.parametrize("name", DECODERS)
def test_memory_follows_what_arrived_and_never_what_was_promised(name: str) -> None:
    size_max = None if name in ("codec", "raft") else MEGABYTE // 2  # the same code, only slower
    for what, whole in GREEDY.items():
        data = whole[:size_max]
        assert peak_bytes(DECODERS[name], data) <= memory_bytes_max(data), what


@settings(max_examples=EXAMPLES)
@given(st.data())
def test_memory_for_any_bytes(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(DECODERS)))
    some = data.draw(inputs(name))
    assert peak_bytes(DECODERS[name], some) <= memory_bytes_max(some)


# -- streams --------------------------------------------------------------------------------


@settings(max_examples=2 * EXAMPLES)
@given(inputs("frames"), st.data())
def test_any_stream_is_cut_into_the_same_frames_however_it_arrives(
    stream: bytes, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    whole, pieces = FrameDecoder(FRAME_BYTES_MAX), FrameDecoder(FRAME_BYTES_MAX)
    expected = whole.feed(stream)
    found: list[Frame] = []
    fed = 0
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += pieces.feed(stream[start:end])
        fed = end
        assert pieces.buffered_bytes <= min(fed, FRAME_BYTES_MAX + 4)
    assert found == expected
    assert str(pieces.error) == str(whole.error)
    assert pieces.buffered_bytes == whole.buffered_bytes
    if whole.error is None:
        assert stream.startswith(encode_stream(found))
        assert len(encode_stream(found)) + pieces.buffered_bytes == len(stream)


@given(st.lists(st.sampled_from(SAMPLES["frames"]), max_size=8), st.binary(max_size=40))
def test_garbage_behind_good_frames_takes_nothing_from_them(good: list[bytes], bad: bytes) -> None:
    whole = [data for data in good if _is_whole(data)]
    decoder = FrameDecoder(FRAME_BYTES_MAX)
    expected = [frame for data in whole for frame in decode_stream(data)]
    assert decoder.feed(b"".join(whole) + bad)[: len(expected)] == expected


def _is_whole(data: bytes) -> bool:
    try:
        return encode_stream(decode_stream(data)) == data
    except ProtocolError:
        return False

"""The two requests that etcd is sent, byte by byte.

A gRPC message is a byte that says whether it is compressed, its length in four bytes, and protocol
buffers (gRPC over HTTP/2, "Requests"; Protocol Buffers Encoding, "Message Structure").
"""

from __future__ import annotations

from itertools import count

PUT_PATH = "/etcdserverpb.KV/Put"
RANGE_PATH = "/etcdserverpb.KV/Range"
HEADERS = ("content-type: application/grpc", "te: trailers")

_LENGTH_DELIMITED = 2
_UNCOMPRESSED = b"\0"


def put_request(key: bytes, value: bytes) -> bytes:
    """``PutRequest{key = 1, value = 2}``, framed."""
    return framed(fields(key, value))


def range_request(key: bytes) -> bytes:
    """``RangeRequest{key = 1}``, framed: one key, linearizable, as is the default."""
    return framed(fields(key))


def framed(message: bytes) -> bytes:
    """One message of a gRPC stream."""
    return _UNCOMPRESSED + len(message).to_bytes(4, "big") + message


def fields(*values: bytes) -> bytes:
    """Bytes fields numbered from 1; an empty one is left out, as it is the default."""
    numbered = zip(count(1), values, strict=False)
    return b"".join(
        varint(number << 3 | _LENGTH_DELIMITED) + varint(len(value)) + value
        for number, value in numbered
        if value
    )


def varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; all but the last have the top bit."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)

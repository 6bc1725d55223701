"""What etcd is sent is gRPC, byte by byte; what it shows is read as it means it."""

from __future__ import annotations

import pytest
from bench.peers.grpc import fields, framed, put_request, range_request, varint
from bench.peers.prometheus import samples

METRICS = """\
# HELP grpc_server_handled_total Total number of RPCs completed on the server.
# TYPE grpc_server_handled_total counter
grpc_server_handled_total{grpc_code="OK",grpc_method="Put",grpc_type="unary"} 134189
grpc_server_handled_total{grpc_code="Unknown",grpc_method="Put",grpc_type="unary"} 1.5e+06
grpc_server_handled_total_more 3
said{text="a \\"b\\", c"} 2 1700000000
"""


@pytest.mark.parametrize(
    ("number", "encoded"), [(0, "00"), (1, "01"), (127, "7f"), (128, "8001"), (300, "ac02")]
)
def test_varints(number: int, encoded: str) -> None:
    assert varint(number).hex() == encoded


def test_fields_are_numbered_and_an_empty_one_is_left_out() -> None:
    assert fields(b"foo", b"bar").hex() == "0a03666f6f" + "1203626172"
    assert fields(b"", b"bar").hex() == "1203626172"


def test_a_frame_says_that_it_is_not_compressed_and_how_long_it_is() -> None:
    assert framed(b"ab" * 130) == bytes.fromhex("0000000104") + b"ab" * 130


def test_a_put_of_the_usual_size() -> None:
    key, value = b"k" * 16, b"v" * 256
    header = bytes.fromhex("00" + "00000115" + "0a10")
    assert put_request(key, value) == header + key + bytes.fromhex("128002") + value


def test_a_get_asks_for_one_key_and_nothing_else() -> None:
    assert range_request(b"foo").hex() == "00" + "00000005" + "0a03666f6f"


def test_metrics_are_read_by_their_whole_name() -> None:
    read = list(samples(METRICS, "grpc_server_handled_total"))
    assert [(one.labels["grpc_code"], one.value) for one in read] == [
        ("OK", 134189.0),
        ("Unknown", 1.5e6),
    ]
    assert [one.labels for one in samples(METRICS, "grpc_server_handled_total_more")] == [{}]
    assert [(one.labels, one.value) for one in samples(METRICS, "said")] == [
        ({"text": 'a \\"b\\", c'}, 2.0)
    ]

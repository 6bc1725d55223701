"""The data commands against a store in memory: parsing, printing and exit codes."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from kvstore.cli.exits import Exit
from kvstore.client import KeyValue
from kvstore.config import LimitsConfig
from kvstore.errors import DeadlineExceeded, InvalidArgument, KVError, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

BINARY = b"caf\xe9\x00"


class Store:
    """Speaks the client's interface; ``failure`` is what every call raises."""

    def __init__(self) -> None:
        self.items: dict[bytes, KeyValue] = {}
        self.failure: BaseException | None = None
        self.fails_on: bytes | None = None
        self.connected_to: tuple[str, float] | None = None

    def connect(self, endpoints: str, *, timeout_s: float, cluster_id: str | None) -> Store:
        self.connected_to = endpoints, timeout_s
        return self

    async def __aenter__(self) -> Store:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    def _fail(self, key: bytes = b"") -> None:
        if self.failure is not None and self.fails_on in (None, key):
            raise self.failure

    async def put(self, key: bytes, value: bytes, *, timeout_s: float) -> int:
        self._fail()
        self.items[key] = KeyValue(key, value, 100 + len(self.items))
        return self.items[key].revision

    async def get(self, key: bytes, *, timeout_s: float) -> KeyValue | None:
        self._fail()
        return self.items.get(key)

    async def delete(self, key: bytes, *, timeout_s: float) -> bool:
        self._fail(key)
        return self.items.pop(key, None) is not None

    async def scan(
        self, prefix: bytes, *, limit: int | None, keys_only: bool
    ) -> AsyncGenerator[KeyValue, None]:
        matching = sorted(key for key in self.items if key.startswith(prefix))
        for key in matching[:limit]:
            item = self.items[key]
            yield item._replace(value=b"") if keys_only else item
        self._fail()


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    fake = Store()
    monkeypatch.setattr("kvstore.cli.data.connect", fake.connect)
    return fake


@pytest.fixture
def three(store: Store) -> Store:
    for key, value in ((b"b", b"2"), (b"a\t", BINARY), (b"a", b"one\ntwo")):
        store.items[key] = KeyValue(key, value, 7)
    return store


def test_put_then_get(store: Store, kv: Callable[..., Any]) -> None:
    assert (kv("put", "user:1", "Ada").out, kv("get", "user:1").out) == (b"OK\n", b"Ada\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("-o", "json", "--timeout", "2", "--endpoints", "h:1", "put", "k", "v"),
        ("put", "-o", "json", "--timeout", "2", "--endpoints", "h:1", "k", "v"),
        ("put", "k", "v", "-o", "json", "--timeout", "2", "--endpoints", "h:1"),
        ("-ojson", "put", "k", "--timeout=2", "v", "--endpoints=h:1"),
        ("--endpoints", "h:1", "-oraw", "--timeout", "9", "put", "k", "v", "-ojson", "--timeout=2"),
    ],
)
def test_common_options_stand_before_or_after(
    store: Store, kv: Callable[..., Any], arguments: tuple[str, ...]
) -> None:
    result = kv(*arguments)
    assert json.loads(result.out) == {"key": "k", "revision": 100}
    assert store.connected_to == ("h:1", 2.0)


def test_put_reads_stdin_for_a_dash(store: Store, kv: Callable[..., Any]) -> None:
    assert kv("put", "k", "-", stdin=BINARY).code == Exit.OK
    assert store.items[b"k"].value == BINARY


def test_a_value_too_large_is_refused_before_it_is_all_read(
    store: Store, kv: Callable[..., Any]
) -> None:
    result = kv("put", "k", "-", stdin=bytes(LimitsConfig().value_bytes_max + 1))
    assert result.code == Exit.USAGE
    assert "over 8388608 bytes" in result.error_line
    assert not store.items


def test_after_two_dashes_all_is_data(store: Store, kv: Callable[..., Any]) -> None:
    assert kv("put", "--", "-k", "-v").code == Exit.OK
    assert store.items[b"-k"].value == b"-v"
    assert kv("get", "--", "-k").out == b"-v\n"


def test_a_key_that_is_not_utf8(store: Store, kv: Callable[..., Any]) -> None:
    key = os.fsdecode(BINARY[:-1])
    kv("put", key, key)
    assert list(store.items) == [BINARY[:-1]]
    assert kv("get", key, "-o", "raw").out == BINARY[:-1]
    assert json.loads(kv("put", key, "v", "-o", "json").out)["key"] == {"base64": "Y2Fm6Q=="}
    missing = kv("get", os.fsdecode(b"\xff"))
    assert missing.error_line == "kv: key not found: \\xff"


def test_get_of_a_missing_key(store: Store, kv: Callable[..., Any]) -> None:
    for format_ in ("simple", "json", "table", "raw"):
        result = kv("get", "nothing", "-o", format_)
        assert (result.code, result.out) == (Exit.NOT_FOUND, b"")
        assert result.error_line == "kv: key not found: nothing"


def test_get_in_each_format(three: Store, kv: Callable[..., Any]) -> None:
    assert kv("get", "a").out == b"one\ntwo\n"
    assert kv("get", "a", "-o", "raw").out == b"one\ntwo"
    assert kv("get", "a\t", "-o", "raw").out == BINARY
    assert json.loads(kv("get", "a", "-o", "json").out) == {
        "key": "a",
        "value": "one\ntwo",
        "revision": 7,
    }
    assert json.loads(kv("get", "a\t", "-o", "json").out)["value"] == {"base64": "Y2Fm6QA="}
    assert "one\\ntwo" in kv("get", "a", "-o", "table").out.decode()


def test_delete_counts_what_was_there(three: Store, kv: Callable[..., Any]) -> None:
    assert kv("delete", "a", "nothing", "b", "b").out == b"2\n"
    assert json.loads(kv("delete", "a\t", "-o", "json").out) == {"deleted": 1}
    assert kv("delete", "a").out == b"0\n"


def test_scan_is_in_key_order_one_line_each(three: Store, kv: Callable[..., Any]) -> None:
    assert kv("scan").out == b"a\tone\\ntwo\na\\t\tcaf\\xe9\\x00\nb\t2\n"
    assert kv("scan", "a").out.count(b"\n") == 2
    assert kv("scan", "--limit", "1").out == b"a\tone\\ntwo\n"
    assert kv("scan", "--limit", "0").out == b""
    assert kv("scan", "--keys-only").out == b"a\na\\t\nb\n"
    assert kv("scan", "b", "-o", "raw").out == b"b\t2\n"
    assert kv("scan", "nothing").out == b""


def test_scan_as_json_is_one_list(three: Store, kv: Callable[..., Any]) -> None:
    assert json.loads(kv("scan", "-o", "json").out) == [
        {"key": "a", "value": "one\ntwo", "revision": 7},
        {"key": "a\t", "value": {"base64": "Y2Fm6QA="}, "revision": 7},
        {"key": "b", "value": "2", "revision": 7},
    ]
    keys = json.loads(kv("scan", "b", "--keys-only", "-o", "json").out)
    assert keys == [{"key": "b", "revision": 7}]
    assert json.loads(kv("scan", "nothing", "-o", "json").out) == []


def test_scan_as_a_table(three: Store, kv: Callable[..., Any]) -> None:
    shown = kv("scan", "-o", "table").out.decode()
    assert "one\\ntwo" in shown
    assert "one" not in kv("scan", "-o", "table", "--keys-only").out.decode()


@pytest.mark.parametrize(
    ("failure", "code", "said"),
    [
        (Unavailable("no node"), Exit.UNAVAILABLE, "kv: no node; the write did not happen"),
        (
            DeadlineExceeded("no answer", may_have_applied=True),
            Exit.UNAVAILABLE,
            "kv: no answer; the write may have happened",
        ),
        (InvalidArgument("bad key"), Exit.USAGE, "kv: bad key; the write did not happen"),
        (KeyboardInterrupt(), Exit.INTERRUPTED, "kv: interrupted; the write may have happened"),
    ],
)
def test_a_failed_write_says_what_may_have_happened(
    store: Store, kv: Callable[..., Any], failure: BaseException, code: Exit, said: str
) -> None:
    store.failure = failure
    for command in (("put", "k", "v"), ("delete", "k")):
        result = kv(*command)
        assert (result.code, result.out, result.error_line) == (code, b"", said)


def test_a_failed_read_does_not_talk_of_writes(store: Store, kv: Callable[..., Any]) -> None:
    store.failure = Unavailable("no node")
    for command in (("get", "k"), ("scan",)):
        assert kv(*command).error_line == "kv: no node"


def test_one_of_several_deletes_failed(three: Store, kv: Callable[..., Any]) -> None:
    three.failure, three.fails_on = KVError("refused"), b"b"
    assert kv("delete", "a", "b").error_line == "kv: refused; the write may have happened"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nonsense",),
        ("put",),
        ("put", "k"),
        ("put", "k", "v", "more"),
        ("get", "k", "--what"),
        ("get", "k", "-o", "xml"),
        ("get", "k", "--timeout", "0"),
        ("get", "k", "--timeout", "nan"),
        ("get", "k", "--timeout", "soon"),
        ("get", "k", "--endpoints", "nowhere"),
        ("get", "k", "--dir", "nothing-here"),
        ("delete",),
        ("scan", "--limit", "-1"),
        ("scan", "a", "b"),
        ("cluster",),
        ("cluster", "explode"),
        ("cluster", "kill"),
        ("cluster", "status"),
        ("cluster", "down"),
        ("cluster", "restart", "n1"),
        ("cluster", "up", "--nodes", "0"),
        ("cluster", "up", "--nodes", "three"),
        ("cluster", "up", "--shards", "7"),
        ("cluster", "up", "--replicas", "5"),
        ("node", "start"),
        ("node", "start", "--config", "missing.toml"),
    ],
)
def test_bad_usage_is_one_line_and_code_2(
    store: Store, kv: Callable[..., Any], arguments: tuple[str, ...]
) -> None:
    result = kv(*arguments)
    assert (result.code, result.out) == (Exit.USAGE, b"")
    assert result.error_line
    assert not store.items


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("verify", "--shard", "x"), "'x' is not a whole number"),
        (("verify", "--shard", "-1"), "-1 is less than 0"),
        (("scan", "--limit", "1.5"), "'1.5' is not a whole number"),
        (("cluster", "logs", "n1", "-n", ""), "'' is not a whole number"),
        (("cluster", "up", "--nodes", "three"), "'three' is not a whole number"),
        (("cluster", "up", "--base-port", "-1"), "--base-port must be from 1"),
    ],
)
def test_what_is_no_whole_number_is_said(
    kv: Callable[..., Any], arguments: tuple[str, ...], said: str
) -> None:
    result = kv(*arguments)
    assert result.code == Exit.USAGE
    assert said in result.error_line


def test_an_unexpected_error_is_one_line_too(store: Store, kv: Callable[..., Any]) -> None:
    store.failure = RuntimeError("two\nlines")
    result = kv("get", "k")
    assert result.code == Exit.UNAVAILABLE
    assert result.error_line.startswith("kv: unexpected RuntimeError: two lines")


def test_help_shows_the_commands_and_the_common_options(kv: Callable[..., Any]) -> None:
    shown = kv("--help").out.decode()
    for word in ("put", "get", "delete", "scan", "status", "locate", "cluster", "node"):
        assert f"\n  {word} " in shown
    assert "Common options" in shown
    assert "KV_ENDPOINTS" in kv("get", "-h").out.decode()
    assert kv("--version").out.startswith(b"kv ")

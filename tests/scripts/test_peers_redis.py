"""A figure of Redis is one of requests that Redis itself has served well."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from bench.measured import Cell
from bench.peers import redis
from bench.peers.resp import connected, encoded, info_of

from kvstore.errors import KVError, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SAID = """\
WARNING: something harmless
"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms",\
"p99_latency_ms","max_latency_ms"
"SET","157779.17","1.435","0.408","1.327","2.479","4.239","5.543"
"""
INFO = b"""# Stats\r
total_error_replies:4\r
keyspace_misses:2\r
# Commandstats\r
cmdstat_set:calls=100,usec=300,usec_per_call=3.00,rejected_calls=1,failed_calls=2\r
"""


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[int]:
    """A server that says this to whoever asks anything, and its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def test_the_load_is_pipelined_over_the_connections() -> None:
    line = redis.benchmark(7000, Cell("get", 1024, 4), 5000)
    options = dict(zip(line[1::2], line[2::2], strict=False))
    assert (options["-t"], options["-c"], options["-P"], options["-n"]) == (
        *("get", "4", "256", "5000"),
    )


def test_the_figures_are_those_that_redis_benchmark_tells() -> None:
    timing = redis.timing(SAID, 1000)
    assert timing.operations / timing.seconds == pytest.approx(157779.17)
    assert timing.latency.count == 1000
    for percent, ms in ((50, 1.327), (95, 2.479), (99, 4.239), (100, 5.543)):
        assert timing.latency.percentile_s(percent) * 1000 == pytest.approx(ms, rel=0.01)


@pytest.mark.parametrize("said", ["", "Error from server: NOAUTH", SAID.splitlines()[1]])
def test_without_figures_there_is_an_error(said: str) -> None:
    with pytest.raises(KVError, match="does not say"):
        redis.timing(said, 1000)


def test_redis_counts_what_was_asked_and_what_went_wrong() -> None:
    info = info_of(INFO)
    assert redis.counts(info, "set") == {"calls": 100, "failed": 3, "errors": 4, "misses": 2}
    assert redis.counts(info, "get") == {"calls": 0, "failed": 0, "errors": 4, "misses": 2}


@pytest.mark.parametrize("wrong", ["failed", "errors", "misses"])
def test_a_request_that_was_not_served_well_is_seen(wrong: str) -> None:
    before = redis.counts(info_of(INFO), "set")
    after = {**before, "calls": 110}
    redis.check_counts(before, after, 10)
    with pytest.raises(KVError, match="asked 10 times"):
        redis.check_counts(before, {**after, wrong: after[wrong] + 1}, 10)
    with pytest.raises(KVError, match="asked 11 times"):
        redis.check_counts(before, after, 11)


def test_a_command_is_an_array_of_strings() -> None:
    assert encoded(b"SET", b"k", b"\r\n") == b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "read"),
    [(b"+PONG\r\n", b"PONG"), (b"$4\r\na\r\nb\r\n", b"a\r\nb"), (b":7\r\n", b"7")],
)
async def test_answers_are_read(answer: bytes, read: bytes) -> None:
    async with answering(answer) as port, connected(port) as server:
        assert await server.ask(b"PING") == read


async def test_a_refusal_and_silence_are_errors() -> None:
    async with answering(b"-ERR no\r\n") as port, connected(port) as server:
        with pytest.raises(KVError, match="redis: ERR no"):
            await server.ask(b"PING")
    async with answering(b"$9\r\nhalf") as port, connected(port) as server:
        with pytest.raises(Unavailable, match="does not answer PING"):
            await server.ask(b"PING")
    with pytest.raises(Unavailable, match=r"redis at 127.0.0.1:1 does not answer"):
        async with connected(1):
            pytest.fail("nobody listens there")

"""A figure of etcd is one of requests that etcd itself has served well."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.measured import Cell
from bench.peers import etcd, h2load

from kvstore.errors import KVError, Unavailable

SAID = """\
starting benchmark...
finished in 1.08s, 18457.86 req/s, 1.18MB/s
requests: {total} total, {total} started, {total} done, {good} succeeded, {bad} failed, {bad} \
errored, 0 timeout
status codes: {good} 2xx, 0 3xx, 0 4xx, 0 5xx
"""
CODES = 'grpc_server_handled_total{{grpc_code="{}",grpc_method="{}"}} {}\n'


def said(total: int, bad: int = 0) -> str:
    return SAID.format(total=total, good=total - bad, bad=bad)


def test_the_load_is_spread_over_the_connections() -> None:
    line = h2load.command(Cell("put", 256, 4), 1000, "http://h:1/p", Path("b"), Path("l"))
    options = dict(zip(line[1::2], line[2::2], strict=False))
    assert (options["-c"], options["-m"], options["-n"], options["-t"]) == ("4", "64", "1000", "1")
    assert (options["-d"], options["--log-file"], line[-1]) == ("b", "l", "http://h:1/p")
    assert "content-type: application/grpc" in line
    assert "te: trailers" in line


def test_every_request_must_have_succeeded() -> None:
    h2load.check(said(1000), 1000)
    with pytest.raises(KVError, match="3 of 1,000 requests have failed"):
        h2load.check(said(1000, bad=3), 1000)
    with pytest.raises(KVError, match="1 of 1,001"):
        h2load.check(said(1000), 1001)
    with pytest.raises(KVError, match="does not say"):
        h2load.check("Could not connect", 1000)


def test_latency_is_of_all_requests_and_the_rate_of_the_middle() -> None:
    # one a millisecond, but for a connection that is slow to come and one that is late to go
    rows = [(turn * 1000, 400 if turn < 50 else 800) for turn in range(100)]
    rows[0], rows[-1] = (-900_000, 400), (900_000, 800)
    log = "".join(f"{began}\t200\t{took}\n" for began, took in rows)
    timing = h2load.timing(log, 100)
    assert timing.operations == timing.latency.count == 100
    assert timing.latency.percentile_s(50) == pytest.approx(400e-6, rel=0.01)
    assert timing.latency.percentile_s(51) == pytest.approx(800e-6, rel=0.01)
    assert timing.operations / timing.seconds == pytest.approx(1000, rel=0.01)


def test_a_log_with_a_failure_or_a_gap_gives_no_figure() -> None:
    good = "".join(f"{turn}\t200\t5\n" for turn in range(10))
    for log, requests in ((good, 11), (good + "11\t-1\t5\n", 11), (good + "11\t503\t5\n", 11)):
        with pytest.raises(KVError, match="its log"):
            h2load.timing(log, requests)
    with pytest.raises(KVError, match="too few"):
        h2load.timing("5\t200\t5\n" * 2, 2)


def test_etcd_counts_the_calls_of_one_method() -> None:
    text = CODES.format("OK", "Put", 7) + CODES.format("OK", "Range", 9)
    text += CODES.format("Unavailable", "Put", 2)
    assert etcd.handled(text, "Put") == {"OK": 7, "Unavailable": 2}


def test_an_error_within_a_good_http_answer_is_seen() -> None:
    before = {"OK": 5, "Unknown": 3}
    etcd.check_handled(before, {"OK": 15, "Unknown": 3}, 10)
    with pytest.raises(KVError, match=r"10 times and counts .*'Unavailable': 1"):
        etcd.check_handled(before, {"OK": 14, "Unknown": 3, "Unavailable": 1}, 10)
    with pytest.raises(KVError, match="counts nothing"):
        etcd.check_handled(before, before, 10)


def test_a_member_is_told_only_where_it_is() -> None:
    line = etcd.command("etcd1", 1001, 2001, "etcd1=http://127.0.0.1:2001")
    options = dict(zip(line[1::2], line[2::2], strict=True))
    assert options["--listen-client-urls"] == "http://127.0.0.1:1001"
    assert options["--listen-peer-urls"] == "http://127.0.0.1:2001"
    assert set(options) == {
        *("--name", "--data-dir", "--initial-cluster"),
        *("--listen-client-urls", "--advertise-client-urls"),
        *("--listen-peer-urls", "--initial-advertise-peer-urls"),
    }


async def test_a_member_that_is_not_there_is_named() -> None:
    with pytest.raises(Unavailable, match=r"etcd at 127.0.0.1:1 does not answer"):
        await etcd.metrics(1)


def test_who_leads() -> None:
    assert etcd.leads("etcd_server_is_leader 1\n")
    assert not etcd.leads("etcd_server_is_leader 0\netcd_server_is_leader_else 1\n")

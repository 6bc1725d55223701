"""The parts of a chaos run by themselves: each must be able to say no."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import subprocess
from itertools import islice
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest

from chaos.cluster import Cluster, Node, free_ports, wait_for
from chaos.history import History, Sample
from chaos.listener import HOST, Listener
from chaos.nemesis import Event, Nemesis
from chaos.plot import latency_svg
from chaos.proxy import Link
from chaos.report import Run, facts, in_words
from chaos.retries import Retries, Tap
from chaos.run import Unusable, run_chaos
from chaos.target import Target
from chaos.verdict import LEDGER_KEYS_MIN, Verdict, check_counters, check_ledger, complaints
from kvstore.ids import NodeId, ShardId
from kvstore.wire.frames import encode_frame
from kvstore.wire.hello import Hello, encode_hello
from kvstore.wire.kinds import Kind
from kvstore.wire.requests import WriteRequest, encode_write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PEER = encode_frame(Kind.HELLO, 0, encode_hello(Hello("peer", "test", 0, "c", NodeId("n1"), 0, 1)))
CLIENT = encode_frame(Kind.HELLO, 0, encode_hello(Hello("client", "test", 0)))
WAIT_S = 10.0


# -- the verdict ------------------------------------------------------------------------------


class FakeStore:
    """Answers from a dict."""

    def __init__(self, **values: bytes) -> None:
        self._values = values

    async def get(self, key: str | bytes) -> Any:
        value = self._values.get(key if isinstance(key, str) else key.decode())
        return None if value is None else type("Item", (), {"value": value})()


async def test_a_lost_or_changed_ledger_key_is_a_problem() -> None:
    history = History(8)
    kept = {f"kept-{number}": b"1" for number in range(LEDGER_KEYS_MIN)}
    history.ledger |= kept | {"lost": b"2", "changed": b"3"}
    verdict = Verdict()
    await check_ledger(FakeStore(**kept, changed=b"other"), history, verdict)
    assert verdict.problems == ["acknowledged write lost: lost", "acknowledged write lost: changed"]


@pytest.mark.parametrize(("found", "is_right"), [(2, False), (3, True), (4, True), (5, False)])
async def test_a_counter_counts_every_sure_increment_and_no_doubtful_one_twice(
    found: int, is_right: bool
) -> None:
    history, verdict = History(8), Verdict()
    history.counted[b"n"] = 3
    history.uncertain[b"n"] = 1
    await check_counters(FakeStore(n=b"%d" % found), history, verdict)
    assert (not verdict.problems) is is_right


async def test_too_few_writes_to_prove_anything_are_a_problem() -> None:
    verdict = Verdict()
    await check_ledger(FakeStore(), History(8), verdict)
    await check_counters(FakeStore(), History(8), verdict)
    assert verdict.problems == [
        "too little traffic: 0 keys to read back, 100 needed",
        "too little traffic: no counter was incremented",
    ]


def test_a_traceback_in_a_log_is_a_problem() -> None:
    assert list(complaints("n1", "well\noops\nTraceback (most recent call last):\n")) == [
        "n1 logged a traceback: oops"
    ]
    assert not list(complaints("n1", "no Traceback here\n"))


@pytest.mark.parametrize(
    "line",
    [
        "ERROR asyncio: Task was destroyed but it is pending!",
        "ERROR asyncio: Task exception was never retrieved",
        "ERROR asyncio: Future exception was never retrieved",
        "Exception ignored in: <function Node.__del__ at 0x7f>",
        "RuntimeWarning: coroutine 'Node.run' was never awaited",
        "Fatal Python error: Segmentation fault",
        "  | Traceback (most recent call last):",
    ],
)
def test_work_that_nobody_looked_after_is_a_problem(line: str) -> None:
    assert list(complaints("n1", f"well\n{line}\n")) == [f"n1 logged: {line}"]


def test_a_process_that_ends_by_itself_is_noticed_even_if_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: start(["false"]))
    node = Node(NodeId("n1"), 1, tmp_path, None)
    node.start()
    assert node.process is not None
    node.process.wait(WAIT_S)
    node.log_file.write_text("last words\n", encoding="utf-8")
    said = "n1 ended by itself with exit code 1: last words"
    assert node.unexpected_end() == said
    assert node.complaints == []
    node.start()
    assert node.complaints == [said]
    assert node.exit_codes == [1]
    node.process.wait(WAIT_S)
    node.is_death_expected = True
    assert node.unexpected_end() is None
    node.start()
    node.process.wait(WAIT_S)
    assert node.complaints == [said]


async def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("the only copy", encoding="utf-8")
    with pytest.raises(Unusable, match="holds other things"):
        await run_chaos(tmp_path, seed=1, seconds=1.0)
    assert (tmp_path / "thesis").read_text(encoding="utf-8") == "the only copy"


# -- what comes when --------------------------------------------------------------------------


def test_a_seed_decides_which_faults_come(tmp_path: Path) -> None:
    target = Target(Cluster(tmp_path, 5, random.Random(1)), History(8), random.Random(1))

    def drawn(seed: int) -> list[list[str]]:
        return list(islice(Nemesis(target, random.Random(seed)).draws(), 60))

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert {name for names in drawn(1) for name in names} == Nemesis(
        target, random.Random()
    ).all.keys()
    assert any(len(names) == 2 for names in drawn(1))


# -- the proxy --------------------------------------------------------------------------------


class Echo:
    """Answers every piece by itself, once it listens."""

    def __init__(self) -> None:
        self.port, self.link_port = free_ports(2, random.Random())
        self._listener = Listener(self.port, self._serve)

    async def start(self) -> None:
        self._listener.listen()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(1 << 16):
                writer.write(piece)

    async def stop(self) -> None:
        """As the death of a process does it: the port closed, and every connection."""
        await self._listener.close()


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    echo = Echo()
    await echo.start()
    yield echo
    await echo.stop()


@pytest.fixture
async def link(echo: Echo) -> AsyncIterator[Link]:
    link = Link("n1", "n2", echo.port, echo.link_port, random.Random(1), Retries())
    link.open()
    yield link
    await link.close()


class Dialler:
    """Dials the link and cleans up."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._writers: list[asyncio.StreamWriter] = []

    async def once(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(HOST, self._link.port)
        self._writers.append(writer)
        return reader, writer

    async def until_served(self, hello: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connected, with the hello echoed."""
        async with asyncio.timeout(WAIT_S):
            while True:
                with contextlib.suppress(ConnectionRefusedError):
                    reader, writer = await self.once()
                    writer.write(hello)
                    assert await reader.readexactly(len(hello)) == hello
                    return reader, writer
                await asyncio.sleep(0.01)

    async def until_refused(self, hello: bytes) -> None:
        """Nobody answers meanwhile."""
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    reader, writer = await self.once()
                except ConnectionRefusedError:
                    return
                with contextlib.suppress(ConnectionResetError):
                    writer.write(hello)
                    assert await reader.read() == b""

    def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


@pytest.fixture
async def dialler(link: Link) -> AsyncIterator[Dialler]:
    dialler = Dialler(link)
    yield dialler
    dialler.close()


async def test_a_cut_holds_what_nodes_say_until_it_is_healed(link: Link, dialler: Dialler) -> None:
    reader, writer = await dialler.until_served(PEER)
    client_reader, client_writer = await dialler.until_served(CLIENT)
    link.cut()
    writer.write(b"held")
    client_writer.write(b"passes")
    async with asyncio.timeout(WAIT_S):
        assert await client_reader.readexactly(6) == b"passes", "clients are not cut"

        async def is_held() -> bool:
            return link.counts["held"] > 0

        await wait_for(is_held, "the piece is held", WAIT_S)
        link.heal()
        assert await reader.readexactly(4) == b"held"


async def test_whoever_dials_a_dead_process_is_refused(
    link: Link, echo: Echo, dialler: Dialler
) -> None:
    reader, _ = await dialler.until_served(PEER)
    await echo.stop()
    async with asyncio.timeout(WAIT_S):
        assert await reader.read() == b"", "the connection ends with the process"
    await dialler.until_refused(PEER)
    await echo.start()
    await dialler.until_served(PEER)


async def test_a_refusing_link_breaks_connections_and_lets_nobody_in(
    link: Link, dialler: Dialler
) -> None:
    reader, _ = await dialler.until_served(PEER)
    link.refuse()
    with pytest.raises(ConnectionRefusedError):
        await dialler.once()
    async with asyncio.timeout(WAIT_S):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    link.heal()
    await dialler.until_served(PEER)


async def test_a_node_that_says_hello_to_a_refusing_link_is_not_let_through(
    link: Link, dialler: Dialler
) -> None:
    await dialler.until_served(CLIENT)
    reader, writer = await dialler.once()
    link.refuse()
    with contextlib.suppress(ConnectionResetError):
        writer.write(PEER)
        async with asyncio.timeout(WAIT_S):
            assert await reader.read() == b""


@pytest.mark.parametrize("iterations", range(6))
async def test_a_connection_accepted_as_the_listener_stops_is_not_forgotten(
    iterations: int,
) -> None:
    """Wherever it is on its way from the kernel to whoever serves it."""

    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    (port,) = free_ports(1, random.Random())
    listener = Listener(port, serve)
    listener.listen()
    with socket.create_connection((HOST, port)) as caller:
        for _ in range(iterations):
            await asyncio.sleep(0)
        listener.stop_listening()
        await listener.close()
        caller.settimeout(WAIT_S)
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.to_thread(caller.recv, 1) == b""


def test_a_write_whose_answer_was_cut_off_is_known_when_it_comes_again() -> None:
    retries = Retries()
    write = encode_write(WriteRequest(1, ShardId(0), 1, b"the batch"))
    tap = Tap(retries)
    tap.to_node(CLIENT + encode_frame(Kind.WRITE, 7, write))
    assert not tap.to_client(encode_frame(Kind.PONG, 1, b""), is_swallowed=True)
    assert tap.to_client(encode_frame(Kind.REPLY, 7, b""), is_swallowed=True)
    assert retries.retried == 0
    Tap(retries).to_node(CLIENT + encode_frame(Kind.WRITE, 1, write))
    Tap(retries).to_node(CLIENT + encode_frame(Kind.WRITE, 1, write))
    assert retries.retried == 1


# -- the report -------------------------------------------------------------------------------


def a_run() -> Run:
    """Two shards for 10 s; shard 1 does nothing from 4 to 7, when a leader is killed."""
    history = History(2)
    for tenth in range(100):
        at = 100 + tenth / 10
        history.samples.append(Sample(at, 0.01, 0, True, True))
        if not 40 <= tenth < 70:
            history.samples.append(Sample(at, 0.02, 1, False, True))
    history.outcomes["ok"] = len(history.samples)
    events = [
        Event("kill leader", "n1 & <co>", 104.0, 104.5, True, 500.0),
        Event("slow disk", "n2", 108.0, 109.0, False, 500.0),
    ]
    return Run(1, 100.0, 110.0, 1, 0, history, events, Verdict(), ["NOT TRIED: this"])


def test_the_picture_is_well_formed_and_names_every_fault() -> None:
    run = a_run()
    picture = latency_svg(run.history.samples, run.events, run.began, run.ended)
    root = ElementTree.fromstring(picture)
    texts = {element.text for element in root.iter() if element.text}
    assert {"kill leader", "slow disk", "10 ms", "1 s"} <= texts
    assert "kill leader: n1 & <co>" in texts
    assert "slow disk: n2 (did not count)" in texts


def test_the_report_says_how_long_each_shard_was_out_because_of_a_fault() -> None:
    told = facts(a_run())
    outages = [event["longest_outage_by_shard_s"] for event in told["events"]]
    assert outages[0] == {"0": 0.1, "1": 3.0}
    assert outages[1] == {"0": 0.1, "1": 0.1}
    words = in_words(told)
    assert "| kill leader | 1 | 1 | 3.00 |" in words
    assert "| slow disk | 1 | 0 | 0.10 |" in words
    assert "NOT TRIED: this" in words


def test_an_outage_is_put_down_to_the_fault_that_was_there_not_to_its_neighbours() -> None:
    run = a_run()
    run.events = [
        Event("before", "n1", 102.0, 103.0, True, 500.0),
        Event("kill leader", "n1", 104.0, 104.5, True, 500.0),
        Event("in the middle", "n2", 106.0, 106.5, True, 500.0),
        Event("after", "n3", 108.0, 109.0, True, 500.0),
    ]
    outages = [event["longest_outage_by_shard_s"]["1"] for event in facts(run)["events"]]
    assert outages == [0.1, 2.0, 1.0, 0.1]


def test_an_outage_that_does_not_end_is_told_too() -> None:
    run = a_run()
    run.history.samples = [sample for sample in run.history.samples if sample.at < 105]
    run.events = [Event("kill all", "all", 104.0, 104.5, True, 500.0)]
    assert facts(run)["events"][0]["longest_outage_by_shard_s"] == {"0": 4.6, "1": 5.5}

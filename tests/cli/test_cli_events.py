"""``kv events``: what has happened, and with ``-f`` what happens."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from asked_nodes import AskedNode, nobody

from kvstore.cli import events
from kvstore.cli.endpoints import Endpoints
from kvstore.cli.options import Settings
from kvstore.ids import NodeId
from kvstore.wire.codec import pack, unpack
from kvstore.wire.kinds import Kind
from kvstore.wire.membership import EventRow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from asked_nodes import Question
    from cli_result import Result

N1, N2 = NodeId("n1"), NodeId("n2")
WALL_MS = 1_700_000_000_042
DEADLINE_S = 20.0

# -- one event ------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _in_a_zone_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever this machine's is: an hour and a half before Greenwich."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "XYZ-01:30")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("kind", "accuser", "detail", "words"),
    [
        ("joined", None, "", "joined (incarnation 3)"),
        ("suspected", N1, "", "suspected by n1 (incarnation 3)"),
        ("died", N1, "", "found dead by n1 (incarnation 3)"),
        ("died", None, "", "died (incarnation 3)"),
        ("conflict", None, "at h:1 and at h:2", "conflict (incarnation 3): at h:1 and at h:2"),
    ],
)
def test_a_line_for_the_eye(kind: str, accuser: NodeId | None, detail: str, words: str) -> None:
    row = EventRow(8, WALL_MS, kind, N2, 3, accuser, detail)
    assert events._line(row) == f"2023-11-14 23:43:20.042  n2     {words}"


def test_a_row_for_programs() -> None:
    assert events._json(EventRow(8, WALL_MS, "died", N2, 3, N1, "so")) == {
        "number": 8, "time_ms": WALL_MS, "event": "died", "node": "n2", "incarnation": 3,
        "by": "n1", "detail": "so",
    }  # fmt: skip


# -- nodes that tell ------------------------------------------------------------------------


class Teller:
    """A node and what it has seen; whoever has it all already waits for more."""

    def __init__(self, name: str, stream: int) -> None:
        self.node = AskedNode(name, self._asked)
        self.questions: list[list[int]] = []
        """Each ``after``, and the milliseconds to wait."""
        self.stream = stream
        self._rows: list[list[Any]] = []
        self._last = 0
        self._waiting: list[tuple[int, Question]] = []

    def sees(self, kind: str, *, wall_ms: int = WALL_MS) -> None:
        """Something happens to ``n9``."""
        self._last += 1
        self._rows.append([self._last, wall_ms, kind, "n9", 1, None, ""])
        waiting, self._waiting = self._waiting, []
        for after, question in waiting:
            self._answer(after, question)

    def forgets(self, count: int) -> None:
        """The oldest."""
        del self._rows[:count]

    def _asked(self, question: Question) -> None:
        assert question.kind == Kind.EVENTS
        after, wait_ms, *stream = unpack(question.body)
        self.questions.append([after, wait_ms])
        is_other = after > self._last or stream not in ([], [self.stream])
        after = 0 if is_other else after
        if is_other or self._last > after or wait_ms == 0:
            self._answer(after, question)
        else:
            self._waiting.append((after, question))
            asyncio.get_running_loop().call_later(wait_ms / 1000, self._give_up, after, question)

    def _give_up(self, after: int, question: Question) -> None:
        if (after, question) in self._waiting:
            self._waiting.remove((after, question))
            self._answer(after, question)

    def _answer(self, after: int, question: Question) -> None:
        rows = [row for row in self._rows if row[0] > after]
        oldest = self._rows[0][0] if self._rows else self._last + 1
        question.answer(pack([self.node.name, self._last, oldest, rows, self.stream]))


async def test_what_has_happened_is_shown_in_order(kv: Callable[..., Result]) -> None:
    teller = Teller("n1", 11)
    for kind in ("joined", "suspected", "refuted"):
        teller.sees(kind)
    async with teller.node.listening() as address:
        options = ("events", "--endpoints", address)
        shown = await asyncio.to_thread(kv, *options, "-o", "json")
        lines = await asyncio.to_thread(kv, *options)
    assert (shown.code, shown.err) == (0, "")
    told = [json.loads(line) for line in shown.out.splitlines()]
    assert [(event["number"], event["event"]) for event in told] == [
        *((1, "joined"), (2, "suspected"), (3, "refuted")),
    ]
    assert [line.split()[3] for line in lines.out.decode().splitlines()] == [
        *("joined", "suspected", "refuted"),
    ]
    assert teller.questions == [[0, 0], [0, 0]]


async def test_nobody_answers(kv: Callable[..., Result]) -> None:
    address = await nobody()
    for options in ([], ["-f"]):
        result = await asyncio.to_thread(kv, "events", *options, "--endpoints", address)
        assert result.code == 3
        assert result.error_line == f"kv: no node answers at {address}"


# -- following ------------------------------------------------------------------------------


class Follower:
    """``kv events -f -o json`` in this loop."""

    def __init__(self, capture: pytest.CaptureFixture[bytes], addresses: tuple[str, ...]) -> None:
        self._capture = capture
        self._out, self.notes = b"", ""
        shown = events._show(Settings(output="json"), Endpoints(addresses), follow=True)
        self.task = asyncio.create_task(shown)

    @property
    def kinds(self) -> list[str]:
        """Of the events that it has shown."""
        self._read()
        return [json.loads(line)["event"] for line in self._out.splitlines()]

    def _read(self) -> None:
        captured = self._capture.readouterr()
        self._out += captured.out
        self.notes += captured.err.decode()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                assert not self.task.done()
                self._read()
                await asyncio.sleep(0.001)


@asynccontextmanager
async def following(
    capture: pytest.CaptureFixture[bytes], *addresses: str
) -> AsyncIterator[Follower]:
    follower = Follower(capture, addresses)
    try:
        yield follower
    finally:
        follower.task.cancel()
        await asyncio.gather(follower.task, return_exceptions=True)


async def test_a_follower_sees_what_happens_when_it_does(
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    teller = Teller("n1", 11)
    teller.sees("joined")
    async with (
        teller.node.listening() as address,
        following(capsysbinary, address) as follower,
    ):
        await follower.until(lambda: len(teller.questions) == 2)
        assert follower.kinds == ["joined"]
        for number, kind in enumerate(("suspected", "died"), 3):
            teller.sees(kind)
            await follower.until(lambda: len(teller.questions) == number)  # noqa: B023
        assert follower.kinds == ["joined", "suspected", "died"]
    assert teller.questions == [[0, 0], *([after, events.WAIT_MS] for after in (1, 2, 3))]
    assert follower.notes == ""


async def test_a_follower_is_told_what_it_has_missed(
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    teller = Teller("n1", 11)
    teller.sees("joined")
    async with (
        teller.node.listening() as address,
        following(capsysbinary, address) as follower,
    ):
        await follower.until(lambda: len(teller.questions) == 2)
        held, teller._waiting = teller._waiting, []
        for kind in ("suspected", "refuted", "left"):
            teller.sees(kind)
        teller.forgets(3)
        for after, question in held:
            teller._answer(after, question)
        await follower.until(lambda: follower.kinds == ["joined", "left"])
    assert follower.notes == "kv: note: 2 events were missed\n"


async def test_when_the_asked_node_dies_another_goes_on(
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    first, second = Teller("n1", 11), Teller("n2", 22)
    first.sees("joined")
    for kind in ("joined", "updated"):
        second.sees(kind)
    async with AsyncExitStack() as nodes:
        living = await nodes.enter_async_context(second.node.listening())
        async with AsyncExitStack() as dying:
            address = await dying.enter_async_context(first.node.listening())
            follower = await nodes.enter_async_context(following(capsysbinary, address, living))
            await follower.until(lambda: len(first.questions) == 2)
        await follower.until(lambda: "n1 does not answer" in follower.notes)
        assert "n2 goes on" in follower.notes
        second.sees("died", wall_ms=WALL_MS + 1)
        await follower.until(lambda: follower.kinds[-1] == "died")
        assert len(follower.notes.splitlines()) == 1
        assert first.questions == [[0, 0], [1, events.WAIT_MS]]


async def test_when_nobody_is_left_it_waits_for_the_first_to_come_back(
    capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "RETRY_S", 0.01)
    before, after = Teller("n1", 11), Teller("n1", 12)
    before.sees("joined")
    async with AsyncExitStack() as nodes:
        async with AsyncExitStack() as dying:
            address = await dying.enter_async_context(before.node.listening())
            follower = await nodes.enter_async_context(following(capsysbinary, address))
            await follower.until(lambda: len(before.questions) == 2)
        await follower.until(lambda: "no node answers" in follower.notes)
        after.sees("updated")
        port = int(address.rpartition(":")[2])
        await nodes.enter_async_context(after.node.listening(port))
        await follower.until(lambda: len(after.questions) == 2)
        assert follower.kinds == ["joined", "updated"]
    assert follower.notes == (
        f"kv: note: no node answers at {address}; waiting for one that does\n"
        "kv: note: n1 was restarted\n"
    )


async def test_what_the_other_saw_meanwhile_is_shown_and_nothing_twice(
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    first, second = Teller("n1", 11), Teller("n2", 22)
    for teller in (first, second):
        teller.sees("joined")
    async with AsyncExitStack() as nodes:
        living = await nodes.enter_async_context(second.node.listening())
        async with AsyncExitStack() as dying:
            address = await dying.enter_async_context(first.node.listening())
            follower = await nodes.enter_async_context(following(capsysbinary, address, living))
            await follower.until(lambda: len(first.questions) == 2)
            second.sees("suspected", wall_ms=WALL_MS + 1)
        await follower.until(lambda: len(second.questions) == 2)
        assert follower.kinds == ["joined", "suspected"]


async def test_whoever_answered_last_is_asked_first(
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    first, second = Teller("n1", 11), Teller("n2", 22)
    first.sees("joined")
    async with AsyncExitStack() as nodes:
        living = await nodes.enter_async_context(second.node.listening())
        address = await nobody()
        follower = await nodes.enter_async_context(following(capsysbinary, address, living))
        await follower.until(lambda: len(second.questions) == 2)
        port = int(address.rpartition(":")[2])
        await nodes.enter_async_context(first.node.listening(port))
        second.sees("died")
        await follower.until(lambda: len(second.questions) == 3)
        assert (first.questions, follower.kinds, follower.notes) == ([], ["died"], "")


async def test_a_node_that_was_restarted_is_noticed_though_it_counts_as_far(
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    teller = Teller("n1", 11)
    teller.sees("joined")
    async with (
        teller.node.listening() as address,
        following(capsysbinary, address) as follower,
    ):
        await follower.until(lambda: len(teller.questions) == 2)
        ((_, question),), teller.stream = teller._waiting, 12
        teller._waiting.clear()
        teller.forgets(1)
        teller._last = 0
        teller.sees("updated", wall_ms=WALL_MS + 1)
        teller._answer(0, question)
        await follower.until(lambda: len(teller.questions) == 3)
        assert follower.kinds == ["joined", "updated"]
    assert follower.notes == "kv: note: n1 was restarted\n"

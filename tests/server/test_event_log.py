"""What is kept of the membership's history, and who waits for more of it."""

from __future__ import annotations

import pytest

from kvstore.errors import KVError, Overloaded
from kvstore.ids import NodeId
from kvstore.server.event_log import EVENTS_KEPT, WAIT_S_MAX, WAITERS_MAX, EventLog
from kvstore.swim.ready import Event, EventKind

STREAM = 11
JOINED = Event(EventKind.JOINED, NodeId("n2"), 1)


class Asker:
    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.errors: list[KVError] = []
        self.is_wanted = True

    def reply(self, body: bytes) -> None:
        self.answers.append(body)

    def fail(self, error: KVError) -> None:
        self.errors.append(error)


def make_log() -> EventLog:
    """One whose answers are the numbers of the events."""

    def encode(after: int) -> bytes:
        return b" ".join(b"%d" % row.number for row in events.after(after))

    events = EventLog(encode, STREAM)
    return events


def test_whoever_is_behind_is_answered_at_once() -> None:
    events, asker = make_log(), Asker()
    events.add(JOINED, 1)
    events.add(JOINED, 2)
    events.ask(STREAM, 1, 10.0, 0.0, asker)
    assert asker.answers == [b"2"]
    assert [row.wall_ms for row in events.after(0)] == [1, 2]


def test_whoever_has_all_waits_for_more_or_until_its_time_is_over() -> None:
    events, first, second = make_log(), Asker(), Asker()
    events.ask(STREAM, 0, 2.0, 100.0, first)
    events.ask(STREAM, 0, 1e9, 100.0, second)
    assert events.deadline == 102.0
    events.answer(101.9)
    assert (first.answers, second.answers) == ([], [])
    events.answer(102.0)
    assert (first.answers, second.answers) == ([b""], [])
    assert events.deadline == 100.0 + WAIT_S_MAX
    events.add(JOINED, 1)
    events.answer(102.0)
    assert second.answers == [b"1"]
    events.answer(1e9)
    assert (len(first.answers), len(second.answers)) == (1, 1)


def test_who_does_not_want_to_wait_does_not() -> None:
    events, asker = make_log(), Asker()
    events.ask(STREAM, 0, 0.0, 0.0, asker)
    assert asker.answers == [b""]


@pytest.mark.parametrize(("stream", "after"), [(STREAM + 1, 1), (STREAM + 1, 0), (STREAM, 7)])
def test_a_number_of_another_stream_gets_all_there_is(stream: int, after: int) -> None:
    events, asker = make_log(), Asker()
    events.add(JOINED, 1)
    events.ask(stream, after, 10.0, 0.0, asker)
    assert asker.answers == [b"1"]


def test_whoever_begins_is_answered_at_once_though_nothing_has_happened() -> None:
    events, asker = make_log(), Asker()
    events.ask(0, 0, 10.0, 0.0, asker)
    assert asker.answers == [b""]


def test_the_oldest_go_first() -> None:
    events = make_log()
    assert (events.oldest, events.last) == (1, 0)
    for _ in range(EVENTS_KEPT + 5):
        events.add(JOINED, 1)
    assert (events.oldest, events.last) == (6, EVENTS_KEPT + 5)
    assert len(events.after(0)) == EVENTS_KEPT


def test_those_who_wait_are_bounded_and_all_answered_in_the_end() -> None:
    events = make_log()
    askers = [Asker() for _ in range(WAITERS_MAX + 1)]
    for asker in askers:
        events.ask(STREAM, 0, 5.0, 0.0, asker)
    assert [type(error) for error in askers[-1].errors] == [Overloaded]
    events.stop()
    assert all(len(asker.answers) == 1 for asker in askers[:-1])
    events.stop()
    assert all(len(asker.answers) <= 1 for asker in askers)


def test_those_who_have_gone_away_do_not_keep_others_out() -> None:
    events, gone, last = make_log(), [Asker() for _ in range(WAITERS_MAX)], Asker()
    for asker in gone:
        events.ask(STREAM, 0, 5.0, 0.0, asker)
    for asker in gone[1:]:
        asker.is_wanted = False
    events.ask(STREAM, 0, 5.0, 0.0, last)
    assert last.errors == []
    events.add(JOINED, 1)
    events.answer(0.0)
    assert [asker.answers for asker in (gone[0], gone[1], last)] == [[b"1"], [], [b"1"]]


@pytest.mark.parametrize("after", [0, 3])
def test_what_is_handed_on_begins_behind_what_is_known(after: int) -> None:
    events = make_log()
    for _ in range(5):
        events.add(JOINED, 1)
    assert [row.number for row in events.after(after)] == list(range(after + 1, 6))

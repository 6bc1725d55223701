"""How messages leave a node: which lane, which turn, and what is not sent after all."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from server_support import OWN, Rig

from kvstore.ids import GroupId, LogIndex, NodeId, ReplicaId, Term
from kvstore.net.transport import Lane
from kvstore.raft.messages import AppendRequest, Entry, EntryKind, Heartbeat
from kvstore.server import pacing, sending, throttle
from kvstore.server.pacing import Pace
from kvstore.server.snapshot_work import ARRIVAL_IDLE_S

if TYPE_CHECKING:
    from collections.abc import Callable

TWO = ReplicaId(2)


def old_log(size: int, index: int = 1) -> AppendRequest:
    entry = Entry(LogIndex(index), Term(1), EntryKind.COMMAND, bytes(size))
    behind = LogIndex(index - 1)
    return AppendRequest(OWN, TWO, Term(1), behind, Term(1), (entry,), behind, is_catch_up=True)


class Sending:
    """A sender, and what it holds back: for how long, and what sends it then."""

    def __init__(self, pace: Pace | None) -> None:
        self.rig = Rig()
        self.waits: list[tuple[float, Callable[[], None]]] = []
        self.dropped: list[NodeId] = []
        self._sender = sending.Sender(
            self.rig.peers,
            pace,
            later=lambda delay_s, work: self.waits.append((delay_s, work)),
            clock=lambda: self.rig.now,
            on_dropped=self.dropped.append,
        )

    def send(self, *messages: AppendRequest) -> None:
        outbox = sending.Outbox()
        outbox.add(self.rig.host, messages)
        self._sender.send(outbox)


async def test_old_log_for_a_newcomer_waits_its_turn_behind_all_else() -> None:
    it = Sending(Pace(sending.LOG_WEIGHT * 1000))
    it.send(old_log(1000), old_log(1000, 2), replace(old_log(10), is_catch_up=False))
    assert [lane for _, lane, _ in it.rig.peers.frames] == [Lane.DATA, Lane.BULK]
    ((delay_s, work),) = it.waits
    assert delay_s >= 1.0
    work()
    last = it.rig.peers.messages(AppendRequest)[-1]
    assert isinstance(last, AppendRequest)
    assert last.prev_index == 1


async def test_a_large_entry_of_old_log_holds_the_next_back_for_less_than_a_minute() -> None:
    it = Sending(Pace(throttle.BYTES_PER_S_MIN))
    it.send(old_log(8 * 1024 * 1024), old_log(1000, 2))
    ((delay_s, _),) = it.waits
    assert 8 < delay_s <= pacing.TURN_S_MAX < ARRIVAL_IDLE_S


async def test_of_old_log_at_most_one_piece_waits_for_each_newcomer() -> None:
    it = Sending(Pace(1))
    for index in range(1, 10):
        it.send(old_log(1000, index))
    assert len(it.rig.peers.frames) == len(it.waits) == 1
    it.waits.pop()[1]()
    it.send(old_log(1000, 10))
    assert (len(it.rig.peers.frames), len(it.waits)) == (2, 1), "the next waits its turn"


async def test_what_waits_for_a_group_that_leaves_this_node_is_never_sent() -> None:
    it = Sending(Pace(1))
    it.send(old_log(1000), old_log(1000, 2))
    ((_, send_now),) = it.waits
    it.rig.driver.remove(GroupId(1))
    send_now()
    assert [m.prev_index for m in it.rig.peers.messages(AppendRequest)] == [0]


async def test_old_log_that_does_not_fit_is_told_to_the_core() -> None:
    it = Sending(None)
    it.rig.peers.is_up = False
    it.send(old_log(10))
    assert len(it.dropped) == 1
    assert not it.waits, "there is nothing to wait for"


def test_lanes() -> None:
    assert sending.lane_of(old_log(10)) is Lane.DATA
    assert sending.lane_of(Heartbeat(TWO, OWN, Term(1), LogIndex(0), 1)) is Lane.CONTROL

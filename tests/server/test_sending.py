"""How messages leave a node: which lane, which turn, and what is not sent after all."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from server_support import OWN, Rig

from kvstore.ids import GroupId, LogIndex, NodeId, ReplicaId, Term
from kvstore.net.transport import Lane
from kvstore.raft.messages import AppendRequest, Entry, EntryKind, Heartbeat
from kvstore.server import sending
from kvstore.server.pacing import Pace

if TYPE_CHECKING:
    from collections.abc import Callable

TWO = ReplicaId(2)


def old_log(size: int, index: int = 1) -> AppendRequest:
    entry = Entry(LogIndex(index), Term(1), EntryKind.COMMAND, bytes(size))
    behind = LogIndex(index - 1)
    return AppendRequest(OWN, TWO, Term(1), behind, Term(1), (entry,), behind, is_catch_up=True)


async def test_old_log_for_a_newcomer_waits_its_turn_behind_all_else() -> None:
    rig = Rig()
    waits: list[tuple[float, Callable[[], None]]] = []
    sender = sending.Sender(
        rig.peers,
        Pace(sending.LOG_WEIGHT * 1000),
        later=lambda delay_s, work: waits.append((delay_s, work)),
        clock=lambda: rig.now,
        on_dropped=lambda node: None,
    )
    outbox = sending.Outbox()
    outbox.add(rig.host, [old_log(1000), old_log(1000, 2), replace(old_log(10), is_catch_up=False)])
    sender.send(outbox)
    assert [lane for _, lane, _ in rig.peers.frames] == [Lane.DATA, Lane.BULK]
    ((delay_s, work),) = waits
    assert delay_s >= 1.0
    work()
    last = rig.peers.messages(AppendRequest)[-1]
    assert isinstance(last, AppendRequest)
    assert last.prev_index == 1


async def test_of_old_log_at_most_one_piece_waits_for_each_newcomer() -> None:
    rig = Rig()
    waits: list[Callable[[], None]] = []
    sender = sending.Sender(
        rig.peers,
        Pace(1),
        later=lambda _, work: waits.append(work),
        clock=lambda: rig.now,
        on_dropped=lambda node: None,
    )
    for index in range(1, 10):
        outbox = sending.Outbox()
        outbox.add(rig.host, [old_log(1000, index)])
        sender.send(outbox)
    assert len(rig.peers.frames) == len(waits) == 1
    waits.pop()()
    again = sending.Outbox()
    again.add(rig.host, [old_log(1000, 10)])
    sender.send(again)
    assert (len(rig.peers.frames), len(waits)) == (2, 1), "the next waits its turn"


async def test_what_waits_for_a_group_that_leaves_this_node_is_never_sent() -> None:
    rig = Rig()
    waits: list[Callable[[], None]] = []
    sender = sending.Sender(
        rig.peers,
        Pace(1),
        later=lambda _, work: waits.append(work),
        clock=lambda: rig.now,
        on_dropped=lambda node: None,
    )
    outbox = sending.Outbox()
    outbox.add(rig.host, [old_log(1000), old_log(1000, 2)])
    sender.send(outbox)
    (send_now,) = waits
    rig.driver.remove(GroupId(1))
    send_now()
    assert [m.prev_index for m in rig.peers.messages(AppendRequest)] == [0]


async def test_old_log_that_does_not_fit_is_told_to_the_core() -> None:
    rig = Rig()
    dropped: list[NodeId] = []
    sender = sending.Sender(
        rig.peers,
        None,
        later=lambda *_: pytest.fail("there is nothing to wait for"),
        clock=lambda: rig.now,
        on_dropped=dropped.append,
    )
    rig.peers.is_up = False
    outbox = sending.Outbox()
    outbox.add(rig.host, [old_log(10)])
    sender.send(outbox)
    assert len(dropped) == 1


def test_lanes() -> None:
    assert sending.lane_of(old_log(10)) is Lane.DATA
    assert sending.lane_of(Heartbeat(TWO, OWN, Term(1), LogIndex(0), 1)) is Lane.CONTROL

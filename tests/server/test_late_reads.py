"""Reads do not wait for a voter that stands still: another is asked before the next tick."""

from __future__ import annotations

from server_support import Rig, settle, until

from kvstore.ids import ReplicaId, group_of_shard
from kvstore.raft.messages import Heartbeat, HeartbeatResponse
from kvstore.raft.reads import is_beat

TWO, THREE = ReplicaId(2), ReplicaId(3)


async def led() -> Rig:
    rig = Rig()
    await rig.lead()
    await rig.acknowledge(by=THREE)
    rig.peers.frames.clear()
    return rig


def read_rounds(rig: Rig) -> list[Heartbeat]:
    beats = [beat for beat in rig.peers.messages(Heartbeat) if isinstance(beat, Heartbeat)]
    return [beat for beat in beats if not is_beat(beat.read_round)]


def asked(rig: Rig) -> list[ReplicaId]:
    return [message.receiver for message in read_rounds(rig)]


async def test_another_is_asked_without_a_tick_when_the_first_does_not_answer() -> None:
    rig = await led()
    reading = rig.read()
    await settle()
    assert asked(rig) == [TWO]
    rig.now += 0.006
    await until(lambda: asked(rig) == [TWO, THREE])
    widened = read_rounds(rig)[-1]
    rig.hear(HeartbeatResponse(THREE, ReplicaId(1), widened.term, widened.read_round))
    await until(lambda: reading.answers == 1)


async def test_what_was_confirmed_in_time_asks_nobody_else() -> None:
    rig = await led()
    reading = rig.read()
    await rig.confirm()
    assert reading.answers == 1
    rig.now += 0.006
    second = rig.read()
    await settle()
    rig.now += 0.006
    await until(lambda: asked(rig) == [TWO, TWO, THREE])
    assert second.answers == 0, "its own round was late, the first was not"


async def test_a_shard_that_has_left_is_not_looked_at() -> None:
    rig = await led()
    rig.read()
    await settle()
    rig.driver.remove(group_of_shard(rig.host.shard))
    rig.now += 0.006
    watched = rig.driver._late_reads._watched
    assert watched
    await until(lambda: not rig.driver._late_reads._watched)
    assert asked(rig) == [TWO]

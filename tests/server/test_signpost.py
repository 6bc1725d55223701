"""What a client is told that asked the wrong node, or a node that a shard leaves just then."""

from __future__ import annotations

from dataclasses import replace

from server_support import settle
from test_client_requests import Front, leading

from kvstore.errors import KVError, NotLeader, Overloaded, Unavailable
from kvstore.ids import NodeId, ReplicaId, ShardId, group_of_shard
from kvstore.server.clients import ClientRequests
from kvstore.server.signpost import Signpost
from kvstore.sharding.shard_map import MapNode, Replica, ShardMap

N4 = NodeId("n4")
GROUP = group_of_shard(ShardId(0))
MAP = ShardMap(
    version=7,
    shards=1,
    nodes=tuple(
        MapNode(NodeId(f"n{number}"), number, f"10.0.0.{number}:7401") for number in range(1, 5)
    ),
    replicas=((Replica(ReplicaId(4), N4),),),
    meta=(Replica(ReplicaId(4), N4),),
)


class Signposted(Front):
    """A node that knows a shard map, by which ``n4`` should lead."""

    def __init__(self, *, voters: int = 1) -> None:
        super().__init__(voters=voters)
        self.map: ShardMap | None = MAP
        self.requests = ClientRequests(
            self.rig.driver,
            self.admission,
            clock=lambda: self.rig.now,
            request_timeout_s=10.0,
            relieve=self.relieve,
            frame_bytes_max=1 << 20,
            scan_threads=self.threads,
            shard_map=lambda: b"map",
            status=lambda: b"status",
            where=lambda group: N4,
            signpost=Signpost(lambda: self.map, {}),
        )

    def refusal(self, request: int) -> NotLeader:
        error = self.error(request)
        assert isinstance(error, NotLeader)
        return error


def directions(error: NotLeader) -> tuple[str | None, str | None, int]:
    return error.leader, error.address, error.map_version


async def test_a_node_without_the_shard_shows_the_way_to_its_leader() -> None:
    front = Signposted()
    for request in (front.write(shard=9), front.read(b"k", shard=9), front.scan(shard=9)):
        assert directions(front.refusal(request)) == ("n4", "10.0.0.4:7401", 7)


async def test_a_follower_shows_the_way_to_its_leader() -> None:
    front = Signposted(voters=3)
    await front.rig.depose()
    for request in (front.write(), front.read(b"k"), front.scan()):
        assert directions(front.refusal(request)) == ("n3", "10.0.0.3:7401", 7)


async def test_without_a_leader_the_map_is_still_told_of() -> None:
    front = Signposted(voters=3)
    assert directions(front.refusal(front.write())) == (None, None, 7)


async def test_without_a_map_there_is_the_name_alone() -> None:
    front = Signposted(voters=3)
    front.map = None
    await front.rig.depose()
    assert directions(front.refusal(front.write())) == ("n3", None, 0)


def test_it_points_by_the_newest_map_and_by_what_is_configured() -> None:
    known = [MAP]
    signpost = Signpost(lambda: known[-1], {N4: "127.0.0.1:9"})

    def completed(leader: str) -> NotLeader:
        error = signpost.complete(NotLeader("elsewhere", leader=leader))
        assert isinstance(error, NotLeader)
        return error

    assert directions(completed("n4")) == ("n4", "127.0.0.1:9", 7)
    assert directions(completed("n5")) == ("n5", None, 7)
    n5 = MapNode(NodeId("n5"), 5, "10.0.0.5:7401")
    known.append(replace(MAP, version=8, nodes=(*MAP.nodes, n5)))
    assert directions(completed("n5")) == ("n5", "10.0.0.5:7401", 8)


def test_other_errors_stay_as_they_are() -> None:
    error: KVError = Overloaded("busy")
    before = dict(vars(error))
    assert Signpost(lambda: MAP, {}).complete(error) is error
    assert vars(error) == before


# -- a shard that leaves while requests wait -------------------------------------------------------


async def test_whoever_waits_for_a_shard_that_leaves_is_sent_on() -> None:
    front = Signposted(voters=3)
    await front.rig.lead()
    proposed, confirming = front.write(), front.read(b"k")
    await settle()
    queued, asked = front.write(), front.read(b"k")
    assert front.wire.frames == []
    front.rig.driver.remove(GROUP)
    refusals = [front.refusal(request) for request in (proposed, confirming, queued, asked)]
    assert [refusal.may_have_applied for refusal in refusals] == [True, False, False, False]
    assert [refusal.map_version for refusal in refusals] == [7, 7, 7, 7]
    assert all(refusal.retryable for refusal in refusals)
    assert front.admission.pending_bytes == 0
    late = front.refusal(front.write())
    assert directions(late) == ("n4", "10.0.0.4:7401", 7)
    assert not late.may_have_applied


async def test_whoever_waits_on_a_deposed_leader_is_sent_to_the_next() -> None:
    front = Signposted(voters=3)
    await front.rig.lead()
    read = front.read(b"k")
    await front.rig.depose()
    assert directions(front.refusal(read)) == ("n3", "10.0.0.3:7401", 7)


async def test_what_was_run_and_not_yet_written_may_have_been_applied() -> None:
    front = Signposted()
    await front.rig.lead()
    front.rig.engine.fill()
    write = front.write()
    await settle()
    front.rig.driver.remove(GROUP)
    assert front.refusal(write).may_have_applied
    front.rig.engine.failing = None
    front.rig.driver._applier.retry_write()
    await settle()
    assert [frame.request for frame in front.wire.frames] == [write]


async def test_a_scan_of_a_shard_that_left_meanwhile_is_sent_on() -> None:
    front = Signposted()
    await front.rig.lead()
    scan = front.scan()
    await settle()
    front.rig.driver.remove(GROUP)
    front.threads.run()
    await settle()
    assert directions(front.refusal(scan)) == ("n4", "10.0.0.4:7401", 7)
    assert front.admission.pending_bytes == 0


async def test_a_node_that_stops_is_no_leader_elsewhere() -> None:
    front = await leading()
    front.rig.engine.fill()
    write = front.write()
    await settle()
    front.rig.host.fail_all(Unavailable("the node is stopping"))
    error = front.error(write)
    assert isinstance(error, Unavailable)
    assert error.may_have_applied

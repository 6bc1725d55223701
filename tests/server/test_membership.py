"""A node's part in the membership: what it begins with, hears, keeps and says."""

from __future__ import annotations

import asyncio
import errno
import logging
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from membership_support import (
    MAP,
    N1,
    N2,
    N3,
    N4,
    NEWER,
    SILENT,
    WALL_MS,
    MembershipRig,
    claim,
    gossip,
    lines,
    ping,
)
from server_support import settle, until

from kvstore import __version__
from kvstore.errors import ProtocolError
from kvstore.ids import GroupId, NodeId, ReplicaId, replica_id
from kvstore.server import membership as membership_module
from kvstore.server.map_exchange import IN_VAIN_S, MAP_PULL_AGAIN_S, MAP_PULL_INTERVAL_S
from kvstore.server.membership import (
    INCARNATIONS_RESERVED,
    VITALS_INTERVAL_S,
)
from kvstore.sharding.known import Report
from kvstore.sharding.shard_map import MapNode, Replica
from kvstore.storage.membership_file import Remembered
from kvstore.swim.claims import Metadata, State, Vitals
from kvstore.swim.messages import Ack
from kvstore.wire.frames import Frame
from kvstore.wire.kinds import Kind
from kvstore.wire.map_codec import decode_map, encode_map, encode_news
from kvstore.wire.membership import decode_members_reply
from kvstore.wire.report_codec import encode_reports
from kvstore.wire.swim_codec import encode_message

if TYPE_CHECKING:
    from pathlib import Path

    from kvstore.sharding.shard_map import ShardMap
    from kvstore.swim.claims import Claim

DEADLINE_S = 10.0
YEAR_MS = 365 * 24 * 3600 * 1000


@pytest.fixture
def rig(tmp_path: Path) -> MembershipRig:
    return MembershipRig(tmp_path)


# -- how it begins --------------------------------------------------------------------------


@pytest.mark.parametrize("last", [0, 7])
def test_each_life_begins_in_a_higher_incarnation_than_the_last(tmp_path: Path, last: int) -> None:
    rig = MembershipRig(tmp_path, Remembered(last))
    assert rig.membership.driver.core.incarnation == last + 1


def test_it_says_of_itself_what_its_configuration_does(rig: MembershipRig) -> None:
    (own,) = rig.membership.members()
    assert (own.node, own.metadata) == (N1, Metadata("n1:1", "a", 2.0, __version__))
    assert own.vitals.map_version == MAP.version


def remembered(age_s: float = 5.0) -> Remembered:
    known = ((claim(N2), age_s), (claim(N3, State.DEAD, accuser=N2), age_s))
    return Remembered(1, WALL_MS, known)


@pytest.mark.parametrize(
    ("now_ms", "age_s"),
    [
        pytest.param(WALL_MS + 60_000, 65.0, id="a minute later"),
        pytest.param(WALL_MS - YEAR_MS, 5.0, id="the clock has gone back"),
    ],
)
def test_whom_it_knew_it_knows_again(tmp_path: Path, now_ms: int, age_s: float) -> None:
    rig = MembershipRig(tmp_path, remembered(), wall_ms=now_ms)
    states = {member.node: (member.state, member.age_s) for member in rig.membership.members()[1:]}
    assert states == {N2: (State.ALIVE, age_s), N3: (State.DEAD, age_s)}


def test_a_clock_that_jumps_ahead_only_forgets_the_dead(tmp_path: Path) -> None:
    rig = MembershipRig(tmp_path, remembered(), wall_ms=WALL_MS + 10 * YEAR_MS)
    states = {member.node: member.state for member in rig.membership.members()}
    assert states == {N1: State.ALIVE, N2: State.ALIVE}


# -- what comes in --------------------------------------------------------------------------


def test_a_member_that_speaks_is_answered_and_may_be_dialled(rig: MembershipRig) -> None:
    rig.receive(gossip(N2, claim(N2)), ping(N2))
    assert rig.couriers.heard_at == ["n2:1", "n2:1"]
    assert any(isinstance(message, Ack) for message in rig.couriers.messages())
    assert [member.node for member in rig.membership.members()] == [N1, N2]


def test_nobody_speaks_in_the_name_of_another(rig: MembershipRig) -> None:
    frame = Frame(Kind.SWIM, 0, 0, encode_message(gossip(N3, claim(N3))))
    with pytest.raises(ProtocolError, match="swim: n2 speaks in the name of n3"):
        rig.membership.receive(N2, frame)
    assert rig.couriers.heard_at == []
    assert [member.node for member in rig.membership.members()] == [N1]


@pytest.mark.parametrize("kind", [Kind.SWIM, Kind.MAP])
def test_what_is_malformed_is_a_protocol_error(rig: MembershipRig, kind: Kind) -> None:
    with pytest.raises(ProtocolError):
        rig.membership.receive(N2, Frame(kind, 0, 0, b"\xc1"))


# -- the shard map --------------------------------------------------------------------------


def pulled_from(rig: MembershipRig) -> list[tuple[NodeId | None, str]]:
    return [(sent.node, sent.address) for sent in rig.couriers.take(Kind.MAP_PULL)]


def give(
    rig: MembershipRig, shard_map: ShardMap, source: NodeId = N2, *, number: int | None = None
) -> None:
    """``source`` sends a map; if nothing else is said, as answer to the last question."""
    answers = rig.couriers.asked_under if number is None else number
    rig.membership.receive(source, Frame(Kind.MAP, 0, answers, encode_map(shard_map)))


def map_of(*nodes: MapNode, removed: tuple[NodeId, ...] = (), version: int = 9) -> ShardMap:
    """All is on the first of ``nodes``."""
    held = (Replica(replica_id(nodes[0].number, 0), nodes[0].id),)
    last = max(3, *(node.number for node in nodes))
    return replace(
        MAP,
        version=version,
        nodes=nodes,
        replicas=(held,) * MAP.shards,
        meta=held,
        last_number=last,
        removed=removed,
    )


def test_a_newer_map_is_pulled_from_whoever_has_it_but_not_with_every_message(
    rig: MembershipRig,
) -> None:
    rig.receive(ping(N2, map_version=MAP.version))
    assert pulled_from(rig) == []
    rig.receive(ping(N2, map_version=2), ping(N2, map_version=2), ping(N3, map_version=3))
    assert pulled_from(rig) == [(N2, "n2:1")]
    rig.clock.now += MAP_PULL_INTERVAL_S
    rig.receive(ping(N3, map_version=3))
    assert pulled_from(rig) == [(N3, "n3:1")], "the first may be dead"


def test_one_that_does_not_send_its_map_does_not_keep_others_from_it(rig: MembershipRig) -> None:
    rig.receive(ping(N2, map_version=99))
    assert pulled_from(rig) == [(N2, "n2:1")]
    rig.clock.now += MAP_PULL_INTERVAL_S
    rig.receive(ping(N2, map_version=99), ping(N3, map_version=2), ping(N2, map_version=99))
    assert pulled_from(rig) == [(N3, "n3:1")]
    rig.clock.now += MAP_PULL_AGAIN_S
    rig.receive(ping(N2, map_version=99))
    assert pulled_from(rig) == [(N2, "n2:1")]


def test_a_map_that_nobody_asked_for_is_not_taken(rig: MembershipRig) -> None:
    give(rig, NEWER)
    rig.receive(ping(N3, map_version=2))
    give(rig, NEWER)
    give(rig, NEWER, N3, number=0)
    give(rig, NEWER, N3, number=rig.couriers.asked_under ^ 1)
    assert rig.membership.shard_map == MAP
    give(rig, NEWER, N3)
    assert rig.membership.shard_map == NEWER


def test_a_map_is_not_taken_of_a_stranger_whatever_it_says(rig: MembershipRig) -> None:
    news = Frame(Kind.MAP_NEWS, 0, 0, encode_news(1002))
    rig.membership.receive(N4, news)
    assert pulled_from(rig) == [(None, "n2:1")], "one that is configured is asked instead"
    stolen = map_of(MapNode(N4, 9, "n4:1"), removed=(N1, N2, N3), version=1002)
    for number in (0, 1):
        give(rig, stolen, N4, number=number)
    rig.membership.receive(N4, news)
    assert pulled_from(rig) == [], "it makes nobody busy"
    assert rig.membership.shard_map == MAP


def test_a_node_whose_members_have_all_changed_asks_at_its_configured_addresses(
    tmp_path: Path,
) -> None:
    own = MapNode(N1, 1, "n1:1")
    rig = MembershipRig(tmp_path, shard_map=map_of(own, MapNode(N4, 2, "n4:1")))
    now = map_of(MapNode(N3, 3, "n3:1"), own, removed=(N4,), version=40)
    rig.receive(ping(N3, map_version=40))
    assert pulled_from(rig) == [(None, "n3:1")]
    give(rig, now, N3)
    assert rig.membership.shard_map == now


def test_that_nobody_who_counts_has_the_newer_map_is_said_after_a_while(
    rig: MembershipRig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.receive(ping(N4, map_version=9))
    rig.clock.now += IN_VAIN_S
    rig.receive(ping(N2, map_version=2))
    give(rig, NEWER)
    caplog.clear()
    for _ in range(3):
        rig.receive(ping(N4, map_version=9))
        assert lines(caplog) == []
        rig.clock.now += IN_VAIN_S / 3
    for _ in range(3):
        rig.receive(ping(N4, map_version=9))
    ((level, words),) = lines(caplog)
    assert level == "WARNING"
    assert words.startswith("n4 says that it has version 9 of the shard map, ours is version 2")


def test_each_configured_address_is_asked_in_its_turn(rig: MembershipRig) -> None:
    asked = []
    for _ in range(4):
        rig.receive(ping(N4, map_version=9))
        asked += pulled_from(rig)
        rig.clock.now += MAP_PULL_INTERVAL_S
    assert asked == [(None, "n2:1"), (None, "n3:1")]
    rig.clock.now += MAP_PULL_AGAIN_S
    rig.receive(ping(N4, map_version=9))
    assert pulled_from(rig) == [(None, "n2:1")]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (
            replace(MAP, shards=8, replicas=MAP.replicas * 2),
            "it is of a cluster of another shape",
        ),
        (replace(MAP, replication=1), "it is of a cluster of another shape"),
        (map_of(*MAP.nodes), "it knows of 3 nodes only"),
        (replace(MAP, last_number=4), "n4 was removed for good"),
        (
            map_of(*MAP.nodes[:2], MapNode(N3, 4, "n3:1"), removed=(N4,)),
            "n3 was not removed, and is another or none",
        ),
        (
            replace(map_of(*MAP.nodes[:2], removed=(N4,)), last_number=4),
            "n3 was not removed, and is another or none",
        ),
        (
            replace(map_of(MAP.nodes[0], removed=(N4, N2, N3)), last_number=4),
            "by it n2 is no member",
        ),
    ],
)
def test_a_map_that_cannot_follow_ours_is_not_taken_and_that_is_said_once(
    tmp_path: Path, wrong: ShardMap, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    ours = replace(MAP, version=2, removed=(N4,), last_number=4)
    rig = MembershipRig(tmp_path, shard_map=ours)
    for _ in range(2):
        rig.receive(ping(N2, map_version=9))
        give(rig, replace(wrong, version=9))
        rig.clock.now += MAP_PULL_AGAIN_S
    assert rig.membership.shard_map == ours
    said = f"n2 sends version 9 of the shard map, which cannot follow our version 2: {why}"
    assert lines(caplog) == [("WARNING", said)]


@pytest.mark.parametrize("version", [0, 1 << 63])
def test_no_map_is_so_new_that_it_could_not_be_told(rig: MembershipRig, version: int) -> None:
    rig.receive(ping(N2, map_version=2))
    with pytest.raises(ProtocolError, match="not a shard map"):
        give(rig, replace(MAP, version=version))
    assert rig.membership.maps.version == MAP.version


def test_whoever_joins_has_none_and_takes_any_that_a_configured_address_has(
    tmp_path: Path,
) -> None:
    rig = MembershipRig(tmp_path, shard_map=None)
    assert rig.membership.maps.version == 0
    rig.receive(ping(N4, map_version=MAP.version))
    assert pulled_from(rig) == [(None, "n2:1")]
    give(rig, MAP, N4, number=1)
    assert rig.membership.shard_map is None
    give(rig, MAP)
    assert rig.membership.shard_map == MAP
    rig.clock.now += MAP_PULL_INTERVAL_S
    rig.receive(ping(N2, map_version=MAP.version))
    assert pulled_from(rig) == []


def test_only_a_newer_map_is_taken_and_then_told_of(
    rig: MembershipRig, caplog: pytest.LogCaptureFixture
) -> None:
    beat = rig.membership.members()[0].vitals.beat
    with caplog.at_level(logging.INFO):
        rig.receive(ping(N2, map_version=2))
        give(rig, NEWER)
        assert lines(caplog) == [("INFO", "shard map version 2 comes from n2")]
        for other in (MAP, NEWER):
            rig.clock.now += MAP_PULL_INTERVAL_S
            rig.receive(ping(N3, map_version=3))
            give(rig, other, N3)
            rig.clock.now += MAP_PULL_AGAIN_S
        assert lines(caplog) == []
    assert rig.membership.shard_map == NEWER
    assert rig.membership.members()[0].vitals == Vitals(beat + 1, 2, 0.0)


def test_a_member_that_asks_is_given_the_map(rig: MembershipRig) -> None:
    rig.receive(gossip(N2, claim(N2, life=5)))
    for asker in (N2, N3):
        rig.membership.receive(asker, Frame(Kind.MAP_PULL, 0, 0, b""))
    (sent,) = rig.couriers.take(Kind.MAP)
    assert (sent.node, sent.address) == (N2, "n2:5"), "of n3 nothing is known"
    assert decode_map(sent.frame.body) == MAP


def test_a_founder_whose_configuration_was_written_anew_takes_the_map_that_is(
    rig: MembershipRig,
) -> None:
    now = map_of(MAP.nodes[1], MapNode(N1, 7, "n1:1"))
    rig.receive(ping(N2, map_version=9))
    give(rig, now)
    assert rig.membership.shard_map == now


def test_how_far_groups_are_is_told_by_members_only(rig: MembershipRig) -> None:
    told: list[Report] = []
    rig.membership.maps.on_reports = told.extend
    empty: frozenset[ReplicaId] = frozenset()
    report = Report(GroupId(1), 2, frozenset({ReplicaId(9)}), empty, empty)
    frame = Frame(Kind.REPORTS, 0, 0, encode_reports([report]))
    rig.membership.receive(N4, frame)
    assert told == []
    rig.membership.receive(N2, frame)
    assert told == [report]


def test_who_has_no_map_gives_none(tmp_path: Path) -> None:
    rig = MembershipRig(tmp_path, shard_map=None)
    rig.receive(gossip(N2, claim(N2)))
    rig.membership.receive(N2, Frame(Kind.MAP_PULL, 0, 0, b""))
    assert rig.couriers.take(Kind.MAP) == []


def test_names_that_the_map_does_not_have_fill_no_view(
    rig: MembershipRig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.membership.go_by(MAP)
    rig.receive(gossip(N2, *(claim(NodeId(f"m{number}")) for number in range(1000))))
    assert len(rig.membership.members()) == 1 + 70
    assert [words for level, words in lines(caplog) if level == "WARNING"] == [
        "no room for m70 (incarnation 1): the view has 70 members that are not in the shard map"
    ]


# -- what is kept ---------------------------------------------------------------------------


async def test_what_has_changed_is_saved_and_nothing_else_is(rig: MembershipRig) -> None:
    await rig.membership.save()
    reserved = 1 + INCARNATIONS_RESERVED
    assert rig.saved() == Remembered(reserved, WALL_MS)
    rig.path.unlink()
    await rig.membership.save()
    assert not rig.path.exists()
    rig.receive(gossip(N2, claim(N2)))
    rig.pass_time(2.5)
    await rig.membership.save()
    assert rig.saved() == Remembered(reserved, WALL_MS + 2500, ((claim(N2), 2.5),))
    rig.receive(gossip(N2, claim(N2, life=2)))
    rig.path.unlink()
    await rig.membership.save()
    assert not rig.path.exists(), "a complaint changes nothing"


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(claim(N1, State.SUSPECT, 4, N2), id="an accusation"),
        pytest.param(claim(N1, State.ALIVE, 4, life=2), id="another of its name"),
        pytest.param(claim(N1, State.LEFT, 4), id="a life that its disk forgot"),
    ],
)
async def test_the_disk_is_ahead_of_the_incarnations_whatever_makes_them_begin(
    rig: MembershipRig, said: Claim
) -> None:
    await rig.membership.save()
    rig.receive(gossip(N2, said))
    assert rig.membership.driver.core.incarnation == 5
    assert rig.saved().incarnation >= 5, "it may crash now"
    await rig.membership.save()
    assert rig.saved().incarnation >= 5 + INCARNATIONS_RESERVED // 2
    await rig.membership.close()
    assert rig.saved().incarnation == 5, "it has stopped: none was spoken beyond"


async def test_two_that_write_the_file_do_not_get_in_each_others_way(
    rig: MembershipRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waited for the first one was cancelled; the thread goes on."""
    is_begun, may_go_on = threading.Event(), threading.Event()
    real = membership_module.membership_file.save

    def slowly(*arguments: Any) -> None:
        is_begun.set()
        assert may_go_on.wait(DEADLINE_S)
        real(*arguments)

    monkeypatch.setattr(membership_module.membership_file, "save", slowly)
    first = asyncio.create_task(rig.membership.save())
    await until(is_begun.is_set)
    first.cancel()
    last = asyncio.create_task(rig.membership.close())
    await settle()
    may_go_on.set()
    await last
    assert rig.saved().incarnation == 1, "the last word"


async def test_a_disk_that_cannot_write_is_told_of_once_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = MembershipRig(tmp_path / "mounted")
    rig.path.parent.mkdir()
    await rig.membership.save()
    rig.path.parent.rename(tmp_path / "away")
    rig.receive(gossip(N2, claim(N2)))
    for _ in range(3):
        await rig.membership.save()
        rig.pass_time(1.0)
    assert lines(caplog) == [
        (
            "WARNING",
            f"{rig.path} could not be written, will be tried again: [Errno {errno.ENOENT}] "
            f"No such file or directory: '{rig.path}.new'",
        )
    ]
    (tmp_path / "away").rename(rig.path.parent)
    assert rig.saved().members == ()
    await rig.membership.save()
    assert [said for said, _ in rig.saved().members] == [claim(N2)]


async def test_it_is_kept_while_it_runs_and_so_is_how_busy_the_node_is(
    rig: MembershipRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership_module, "SAVE_INTERVAL_S", 0.0)

    def vitals() -> Vitals:
        return rig.membership.members()[0].vitals

    begun = vitals()
    keeping = asyncio.create_task(rig.membership.keep())
    try:
        await until(rig.path.exists)
        rig.cpu.now = 1.0
        rig.clock.now += VITALS_INTERVAL_S / 2
        await rounds_of(rig)
        assert vitals() == begun, "it is too early to tell"
        rig.clock.now += VITALS_INTERVAL_S / 2
        await until(lambda: vitals().load > 0.0)
        assert vitals() == Vitals(begun.beat + 1, MAP.version, 0.2)
        rig.cpu.now += 1.0
        rig.clock.now += VITALS_INTERVAL_S
        await rounds_of(rig)
        assert vitals().beat == begun.beat + 1, "it is as busy as before"
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def rounds_of(rig: MembershipRig) -> None:
    """Return when it has looked after everything since the call."""
    for number in range(2):
        rig.path.unlink()
        rig.receive(gossip(N2, claim(NodeId(f"x{rig.clock.now}-{number}"))))
        await until(rig.path.exists)


# -- what it says of others -----------------------------------------------------------------


def test_the_view_is_told_to_whoever_asks(rig: MembershipRig) -> None:
    rig.receive(gossip(N2, claim(N2), claim(N3, State.SUSPECT, 3, N2)))
    rig.pass_time(1.5)
    reply = decode_members_reply(rig.membership.members_reply())
    assert reply.asked == N1
    own, *others = reply.members
    assert (own.id, own.address, own.state, own.incarnation) == (N1, "n1:1", "alive", 1)
    assert (own.zone, own.weight, own.version, own.map_version) == ("a", 2.0, __version__, 1)
    said = {row.id: (row.address, row.state, row.incarnation) for row in others}
    assert said == {N2: ("n2:1", "alive", 1), N3: ("n3:1", "suspect", 3)}
    assert [row.age_s for row in others] == pytest.approx([1.5, 1.5])


def test_what_has_happened_is_told_to_whoever_asks(rig: MembershipRig) -> None:
    assert (rig.events().asked, rig.events().next, rig.events().events) == (N1, 0, [])
    rig.receive(gossip(N2, claim(N2)))
    rig.pass_time(1.0)
    rig.receive(gossip(N2, claim(N3, State.DEAD, 3, N2), claim(N4)))
    reply = rig.events()
    assert (reply.asked, reply.next, reply.oldest) == (N1, 2, 1)
    assert [(row.number, row.wall_ms, row.kind, row.node) for row in reply.events] == [
        (1, WALL_MS, "joined", N2),
        (2, WALL_MS + 1000, "joined", N4),
    ]


def test_who_was_removed_is_known_to_be(rig: MembershipRig) -> None:
    rig.receive(gossip(N2, claim(N2), claim(N3, State.DEAD), claim(N4)))
    rig.membership.go_by(replace(MAP, removed=(N4,)))
    assert [rig.membership.is_removed(node) for node in (N1, N2, N3, N4)] == [
        *(False, False, False, True),
    ]


# -- leaving --------------------------------------------------------------------------------


async def test_it_says_goodbye_and_sees_it_sent(rig: MembershipRig) -> None:
    rig.receive(gossip(N2, claim(N2)))
    leaving = asyncio.create_task(rig.membership.leave())
    await settle()
    while rig.membership.driver.core.has_news:
        assert rig.couriers.drains == 0
        rig.clock.now += SILENT.gossip_interval_s
        rig.membership.driver.tick()
    async with asyncio.timeout(DEADLINE_S):
        await leaving
    assert rig.couriers.drains == 1


async def test_a_goodbye_that_cannot_be_sent_often_enough_does_not_keep_it(
    rig: MembershipRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership_module, "LEAVE_S_MAX", 0.001)
    rig.receive(gossip(N2, claim(N2)))
    async with asyncio.timeout(DEADLINE_S):
        await rig.membership.leave()  # and nobody ticks
    assert rig.couriers.drains == 1
    assert rig.membership.members()[0].state is State.LEFT

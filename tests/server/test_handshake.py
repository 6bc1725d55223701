"""Who is let in, who is turned away and why, and what is remembered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from kvstore.config import ClusterConfig, NodeAddress, NodeConfig
from kvstore.errors import ClockAhead, KVError, ProtocolError, Refused, Removed, Unavailable
from kvstore.hlc import revision_at
from kvstore.ids import NodeId
from kvstore.net.transport import Lane
from kvstore.server.handshake import STARTS_JUMP_MAX, Handshake
from kvstore.storage.identity_file import Pin
from kvstore.swim.members import MEMBERS_MAX
from kvstore.wire.hello import (
    NO_DATA_ID,
    NOT_SAID,
    Begun,
    Hello,
    Welcome,
    decode_hello,
    encode_hello,
)

if TYPE_CHECKING:
    from kvstore.net.connection import FrameConnection

NOBODY = cast("FrameConnection", None)
N1, N2, N9 = NodeId("n1"), NodeId("n2"), NodeId("n9")
NOW_MS = 1_700_000_000_000
CONFIG = NodeConfig(
    node_id=N1,
    data_dir=Path("never-used"),
    cluster=ClusterConfig("c", tuple(NodeAddress(NodeId(n), f"{n}:1") for n in ("n1", "n2", "n3"))),
)
PEER = Hello("peer", "test", NOW_MS, "c", N2, Lane.DATA.value, 222, life=2)
CLIENT = Hello("client", "test", NOW_MS)
WELCOME = Welcome("c", N2, 222, NOW_MS, revision_at(NOW_MS), "test", life=2)


class Door:
    def __init__(self, **pins: Pin) -> None:
        self.remembered: list[tuple[NodeId, Pin]] = []
        self.pins = {NodeId(node): pin for node, pin in pins.items()}
        """What is on the disk."""
        self.handshake = Handshake(
            CONFIG,
            own=Pin(111, 4),
            begun=Begun(6, NOW_MS),
            pins=lambda: self.pins,
            remember=lambda node, pin: self.remembered.append((node, pin)),
            wall_ms=lambda: NOW_MS,
        )

    def write_down(self) -> None:
        """What shall be remembered becomes durable."""
        self.pins = self.pins | dict(self.remembered)

    def welcome(self, hello: Hello) -> Welcome:
        return self.handshake.welcome(NOBODY, hello)


def test_a_client_is_told_where_it_is() -> None:
    welcome = Door().welcome(CLIENT)
    assert (welcome.cluster_id, welcome.node_id) == ("c", N1)
    assert (welcome.wall_ms, welcome.revision_now) == (NOW_MS, revision_at(NOW_MS))


def test_only_members_are_told_which_directory_a_node_has() -> None:
    door = Door()
    for hello in (CLIENT, replace(CLIENT, node_id=N2), replace(PEER, node_id=N9)):
        welcome = door.welcome(hello)
        assert (welcome.data_id, welcome.life, welcome.begun) == (NO_DATA_ID, 0, NOT_SAID)
    welcome = door.welcome(PEER)
    assert (welcome.data_id, welcome.life, welcome.begun) == (111, 4, Begun(6, NOW_MS))


def test_whoever_does_not_say_its_directory_is_held_to_it_when_it_does() -> None:
    door = Door()
    unsaid = replace(WELCOME, data_id=NO_DATA_ID, life=0)
    door.handshake.check_welcome(N2, unsaid)
    assert door.remembered == []
    door.welcome(PEER)
    assert door.remembered == [(N2, Pin(222, 2))]
    door.handshake.check_welcome(N2, unsaid)
    with pytest.raises(ClockAhead, match="n2's clock is 501 ms ahead"):
        door.handshake.check_welcome(N2, replace(unsaid, wall_ms=NOW_MS + 501))
    with pytest.raises(Refused, match="two nodes are called n1"):
        door.handshake.check_welcome(None, replace(unsaid, node_id=N1))


@pytest.mark.parametrize(
    ("begun", "error", "said"),
    [
        (Begun(STARTS_JUMP_MAX + 4, 0), ProtocolError, "cannot have been started 1048580 times"),
        (Begun(3, NOW_MS + 501), ClockAhead, "n2 says that it was started 501 ms from now"),
    ],
)
def test_a_process_that_cannot_have_begun_so_shuts_nobody_out(
    begun: Begun, error: type[KVError], said: str
) -> None:
    door = Door(n2=Pin(222, 2))
    true = replace(PEER, begun=Begun(3, NOW_MS - 5))
    door.welcome(true)
    with pytest.raises(error, match=said):
        door.welcome(replace(true, begun=begun))
    with pytest.raises(error, match=said):
        door.handshake.check_welcome(N2, replace(WELCOME, begun=begun))
    door.welcome(true)


def test_a_client_of_another_cluster_is_turned_away() -> None:
    with pytest.raises(Refused, match="this is cluster 'c', not 'other'"):
        Door().welcome(replace(CLIENT, cluster_id="other"))


def test_a_clients_clock_does_not_matter() -> None:
    assert Door().welcome(replace(CLIENT, wall_ms=NOW_MS * 2)).wall_ms == NOW_MS


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"cluster_id": "other"}, Refused, "this is cluster"),
        ({"node_id": N1}, Refused, "two nodes are called n1"),
        ({"data_id": 333}, Refused, "another data directory.*kv repair"),
        (
            {"data_id": 333, "life": 0},
            Refused,
            "repaired and lives on.*do not start it; if the other is lost.*kv repair",
        ),
        ({"life": 0}, Refused, "repaired and lives on"),
        ({"wall_ms": NOW_MS + 501}, ClockAhead, "n2's clock is 501 ms ahead"),
    ],
)
def test_a_peer_is_turned_away(changes: dict[str, object], error: type[KVError], said: str) -> None:
    door = Door(n2=Pin(222, 2))
    with pytest.raises(error, match=said):
        door.welcome(replace(PEER, **changes))
    assert door.remembered == []


def test_any_node_of_the_cluster_may_join_and_is_held_to_its_directory() -> None:
    door = Door()
    joined = replace(PEER, node_id=NodeId("n9"))
    door.welcome(joined)
    door.welcome(joined)
    wiped = replace(joined, data_id=333, begun=Begun(1, NOW_MS))
    door.welcome(replace(joined, begun=Begun(8, NOW_MS)))
    with pytest.raises(Refused, match="two nodes are called n9: the other one is still there"):
        door.welcome(wiped)
    door.handshake.is_gone = lambda node: node == "n9"
    door.welcome(wiped)
    door.handshake.is_gone = lambda node: False
    with pytest.raises(Refused, match="two nodes are called n9"):
        door.welcome(joined)
    assert door.remembered == [], "it holds nothing that the disk must vouch for"


def test_any_number_of_nodes_may_come_and_go() -> None:
    door = Door()
    joined = replace(PEER, node_id=NodeId("n9"))
    door.welcome(joined)
    for number in range(MEMBERS_MAX):
        door.welcome(replace(PEER, node_id=NodeId(f"pod-{number}")))
    door.welcome(replace(joined, data_id=333))
    assert door.remembered == []


@pytest.mark.parametrize("node", [N2, NodeId("n9")], ids=["founder", "joined"])
def test_of_two_processes_on_copies_of_one_directory_the_later_is_let_in(node: NodeId) -> None:
    door = Door(n2=Pin(222, 2))
    first = replace(PEER, node_id=node, begun=Begun(3, NOW_MS))
    door.welcome(first)
    door.welcome(replace(first, lane=Lane.BULK.value))
    door.welcome(replace(first, begun=Begun(3, NOW_MS + 1)))
    door.welcome(replace(first, begun=Begun(4, NOW_MS - 9000)))
    for earlier in (first, replace(first, begun=Begun(3, NOW_MS + 1))):
        with pytest.raises(Refused, match=f"another process that calls itself {node} began later"):
            door.welcome(earlier)
    with pytest.raises(Refused, match="began later"):
        door.handshake.check_welcome(
            node, replace(WELCOME, node_id=node, begun=Begun(3, NOW_MS + 1))
        )
    door.welcome(replace(first, begun=Begun(0, 0)))


def test_the_starts_of_a_repaired_directory_are_counted_anew() -> None:
    door = Door(n2=Pin(222, 2))
    door.welcome(replace(PEER, begun=Begun(30, NOW_MS)))
    repaired = replace(PEER, data_id=333, life=7, begun=Begun(1, NOW_MS))
    with pytest.raises(Unavailable, match="come again"):
        door.welcome(repaired)
    door.write_down()
    door.welcome(repaired)


JOINER = replace(PEER, node_id=N9, life=0)


def make_member(door: Door, *, is_member: bool = True) -> None:
    door.handshake.set_members([N1, N2, *([N9] if is_member else [])])


def test_at_first_the_founders_are_the_members() -> None:
    handshake = Door().handshake
    assert [handshake.is_member(node) for node in (N1, N2, N9)] == [True, True, False]
    handshake.set_members({N2, N9})
    assert [handshake.is_member(node) for node in (N1, N2, N9)] == [False, True, True]


def test_a_joined_node_that_becomes_a_member_is_remembered_at_once() -> None:
    door = Door()
    door.welcome(JOINER)
    assert door.remembered == []
    make_member(door)
    make_member(door)
    door.welcome(JOINER)
    door.handshake.check_welcome(N9, replace(WELCOME, node_id=N9, life=0))
    assert door.remembered == [(N9, Pin(222, 0))]
    assert door.handshake.life_of(N9) is None, "not on the disk yet"
    door.write_down()
    assert door.handshake.life_of(N9) == 0
    door.welcome(JOINER)
    assert door.remembered == [(N9, Pin(222, 0))]


def test_a_member_that_was_not_met_yet_is_remembered_when_it_is() -> None:
    door = Door()
    make_member(door)
    assert door.remembered == []
    door.welcome(JOINER)
    assert door.remembered == [(N9, Pin(222, 0))]


@pytest.mark.parametrize("is_durable", [True, False])
def test_a_member_is_held_to_its_directory_also_when_it_is_gone(is_durable: bool) -> None:
    door = Door()
    door.handshake.is_gone = lambda node: True
    door.welcome(replace(JOINER, data_id=111))
    door.welcome(JOINER)
    make_member(door)
    if is_durable:
        door.write_down()
    for wiped in (replace(JOINER, data_id=333), replace(JOINER, data_id=111)):
        with pytest.raises(Refused, match=r"another data directory than before.*kv repair"):
            door.welcome(wiped)
    door.welcome(JOINER)
    assert door.remembered == [(N9, Pin(222, 0))], "the one that was met last"


def test_a_joiner_wiped_while_it_is_there_becomes_a_member_as_what_it_was() -> None:
    door = Door()
    door.welcome(JOINER)
    wiped = replace(JOINER, data_id=333)
    with pytest.raises(Refused, match="two nodes are called n9"):
        door.welcome(wiped)
    make_member(door)
    assert door.remembered == [(N9, Pin(222, 0))]
    door.handshake.is_gone = lambda node: True
    with pytest.raises(Refused, match="another data directory"):
        door.welcome(wiped)


def test_a_joined_member_that_was_repaired_is_let_in_once_it_is_remembered() -> None:
    door = Door()
    door.welcome(JOINER)
    make_member(door)
    door.write_down()
    repaired = replace(JOINER, data_id=333, life=5)
    with pytest.raises(Unavailable, match=r"n9 was repaired.*come again"):
        door.welcome(repaired)
    door.write_down()
    door.welcome(repaired)
    with pytest.raises(Refused, match="this one, of life 0, was given up"):
        door.welcome(JOINER)


@pytest.mark.parametrize("is_durable", [True, False])
def test_one_that_was_a_member_is_held_to_what_was_remembered(is_durable: bool) -> None:
    """Another directory of that life could come to have the votes of the first."""
    door = Door()
    door.handshake.is_gone = lambda node: True
    make_member(door)
    door.welcome(JOINER)
    if is_durable:
        door.write_down()
    for is_member in (False, True):
        make_member(door, is_member=is_member)
        assert door.handshake.is_member(N9) is is_member
        door.welcome(JOINER)
        with pytest.raises(Refused, match="another data directory"):
            door.welcome(replace(JOINER, data_id=333))
    assert door.remembered == [(N9, Pin(222, 0))]


def test_one_that_was_a_member_and_was_never_met_is_like_any_other() -> None:
    door = Door()
    door.handshake.is_gone = lambda node: True
    make_member(door)
    make_member(door, is_member=False)
    door.welcome(JOINER)
    door.welcome(replace(JOINER, data_id=333))
    assert door.remembered == []


def test_what_was_remembered_counts_before_the_members_are_known() -> None:
    """As after a restart, when others come before the shard map is read."""
    door = Door(n9=Pin(222, 0))
    door.handshake.is_gone = lambda node: True
    with pytest.raises(Refused, match="another data directory"):
        door.welcome(replace(JOINER, data_id=333))
    door.welcome(JOINER)
    make_member(door)
    door.welcome(JOINER)
    assert door.remembered == []


def test_a_later_process_of_a_joiner_is_known_when_it_becomes_a_member() -> None:
    door = Door()
    door.welcome(replace(JOINER, begun=Begun(4, NOW_MS)))
    make_member(door)
    with pytest.raises(Refused, match="another process that calls itself n9 began later"):
        door.welcome(replace(JOINER, begun=Begun(3, NOW_MS)))


def test_a_founder_that_ceases_to_be_a_member_and_was_not_met_may_come_anew() -> None:
    door = Door()
    door.handshake.set_members([N1])
    door.welcome(PEER)
    with pytest.raises(Refused, match="two nodes are called n2"):
        door.welcome(replace(PEER, data_id=333))
    assert door.remembered == []


def test_a_removed_node_is_told_so() -> None:
    door = Door(n2=Pin(222, 2))
    door.handshake.is_removed = lambda node: node == "n2"
    with pytest.raises(
        Removed, match=r"n2 was removed from this cluster.*another name and an empty"
    ):
        door.welcome(PEER)


def test_a_removed_node_that_is_dialled_is_not_what_removed_the_dialler() -> None:
    door = Door()
    door.handshake.is_removed = lambda node: node == "n2"
    with pytest.raises(Refused, match="n2 was removed from this cluster") as caught:
        door.handshake.check_welcome(N2, WELCOME)
    assert type(caught.value) is Refused


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"cluster_id": "other"}, Refused, "of cluster 'other'"),
        ({"node_id": NodeId("n3")}, Refused, "at its address is n3"),
        ({"data_id": 333}, Refused, "another data directory.*kv repair"),
        ({"data_id": 333, "life": 1}, Refused, "repaired and lives on"),
        ({"wall_ms": NOW_MS + 501}, ClockAhead, "n2's clock"),
    ],
)
def test_whoever_answers_at_a_peers_address_is_checked_as_well(
    changes: dict[str, object], error: type[KVError], said: str
) -> None:
    door = Door(n2=Pin(222, 2))
    with pytest.raises(error, match=said):
        door.handshake.check_welcome(N2, replace(WELCOME, **changes))
    assert door.remembered == []


def test_a_node_that_answers_itself_is_not_a_peer() -> None:
    with pytest.raises(Refused, match="two nodes are called n1"):
        Door().handshake.check_welcome(N1, replace(WELCOME, node_id=N1))
    ours = replace(WELCOME, node_id=N1, data_id=111, life=4, begun=Begun(6, NOW_MS))
    with pytest.raises(Refused, match="that is this node itself"):
        Door().handshake.check_welcome(N1, ours)
    with pytest.raises(Refused, match="two nodes are called n1"):
        Door().handshake.check_welcome(N1, replace(ours, begun=Begun(7, NOW_MS)))


def test_a_clock_within_the_bound_or_behind_is_fine() -> None:
    door = Door()
    for wall_ms in (NOW_MS + 500, 0):
        assert door.welcome(replace(PEER, wall_ms=wall_ms)).node_id == N1


def test_a_peer_is_remembered_at_the_first_meeting_only() -> None:
    door = Door()
    door.welcome(PEER)
    door.handshake.check_welcome(N2, WELCOME)
    door.welcome(replace(PEER, lane=Lane.BULK.value))
    assert door.remembered == [(N2, Pin(222, 2))]
    with pytest.raises(Refused, match="another data directory"):
        door.welcome(replace(PEER, data_id=333))
    assert door.handshake.life_of(N2) is None, "not on the disk yet"
    door.write_down()
    assert door.handshake.life_of(N2) == 2


def test_whoever_is_turned_away_is_not_remembered() -> None:
    door = Door()
    with pytest.raises(ClockAhead):
        door.welcome(replace(PEER, wall_ms=NOW_MS + 501))
    assert door.remembered == []
    door.welcome(replace(PEER, data_id=333))
    assert door.remembered == [(N2, Pin(333, 2))]


def test_a_later_life_is_let_in_once_it_is_remembered() -> None:
    door = Door(n2=Pin(222, 2))
    repaired = replace(PEER, data_id=333, life=7)
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"n2 was repaired.*come again"):
            door.welcome(repaired)
        with pytest.raises(Unavailable, match="come again"):
            door.handshake.check_welcome(N2, replace(WELCOME, data_id=333, life=7))
    assert door.remembered == [(N2, Pin(333, 7))]
    assert door.handshake.life_of(N2) == 2
    door.write_down()
    door.welcome(repaired)
    door.handshake.check_welcome(N2, replace(WELCOME, data_id=333, life=7))
    assert door.handshake.life_of(N2) == 7
    assert door.remembered == [(N2, Pin(333, 7))]


def test_the_earlier_life_is_turned_away_as_soon_as_the_later_one_has_come() -> None:
    door = Door(n2=Pin(222, 2))
    with pytest.raises(Unavailable):
        door.welcome(replace(PEER, data_id=333, life=7))
    for _ in range(2):
        with pytest.raises(Refused, match="this one, of life 2, was given up"):
            door.welcome(PEER)
        with pytest.raises(Refused, match="another data directory"):
            door.welcome(replace(PEER, data_id=444, life=7))
        door.write_down()


def test_a_repair_of_a_repair_is_a_later_life_too() -> None:
    door = Door(n2=Pin(222, 2))
    for life in (7, 8):
        with pytest.raises(Unavailable):
            door.welcome(replace(PEER, data_id=life, life=life))
    door.write_down()
    door.welcome(replace(PEER, data_id=8, life=8))
    with pytest.raises(Refused, match="lives on"):
        door.welcome(replace(PEER, data_id=7, life=7))


def test_a_life_with_a_fast_clock_is_not_remembered() -> None:
    door = Door(n2=Pin(222, 2))
    with pytest.raises(ClockAhead):
        door.welcome(replace(PEER, data_id=333, life=7, wall_ms=NOW_MS + 501))
    assert door.remembered == []
    door.welcome(PEER)


def test_a_peer_known_from_before_the_restart_is_held_to_it() -> None:
    door = Door(n2=Pin(222, 2))
    door.welcome(PEER)
    assert door.remembered == []


def test_what_is_said_to_a_peer_is_what_it_checks() -> None:
    hello = Door().handshake.make_hello(Lane.BULK)
    assert decode_hello(encode_hello(hello)) == hello
    assert (hello.node_id, hello.data_id, hello.life) == (N1, 111, 4)
    assert hello.lane == Lane.BULK.value
    assert (hello.cluster_id, hello.wall_ms) == ("c", NOW_MS)

"""By which connection members are spoken to, and what its troubles mean."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from loopback_support import connections, listening, until
from membership_support import N1, N2, N3, lines

from kvstore.config import LimitsConfig
from kvstore.errors import ClockAhead, KVError, Refused, Removed, Unavailable
from kvstore.net.dial import NobodyListens
from kvstore.net.limits import NetLimits
from kvstore.net.transport import Lane
from kvstore.server import membership
from kvstore.server.membership import DRAIN_S_MAX, MemberCouriers, make_contacts
from kvstore.wire.frames import encode_frame
from kvstore.wire.kinds import Kind

if TYPE_CHECKING:
    from kvstore.ids import NodeId
    from kvstore.net.contacts import ContactBook
    from kvstore.net.peers import PeerPool
    from kvstore.server.handshake import Handshake

STANDING = {N2: "n2:1"}
SEED = "seed:1"


# -- by which connection --------------------------------------------------------------------


class Connections:
    """A pool of peers and a book of contacts that note what they are told."""

    def __init__(self) -> None:
        self.by_lane: list[tuple[NodeId, Lane, bytes]] = []
        self.by_contact: list[tuple[str, bytes, NodeId | None]] = []
        self.forgiven: list[str] = []
        self.drained_s: list[float] = []
        self.is_connected = True
        self.pool = SimpleNamespace(send=self._send, peers=STANDING)
        contacts = SimpleNamespace(
            send=lambda *sent: self.by_contact.append(sent),
            forgive=self.forgiven.append,
            drain=self._drain,
        )
        self.couriers = MemberCouriers(cast("PeerPool", self.pool), cast("ContactBook", contacts))

    def _send(self, *sent: Any) -> bool:
        if self.is_connected:
            self.by_lane.append(sent)
        return self.is_connected

    async def _drain(self, deadline_s: float) -> None:
        self.drained_s.append(deadline_s)


@pytest.mark.parametrize("node", [N2, None], ids=["by name", "as a seed"])
def test_a_standing_peer_is_spoken_to_on_its_control_lane(node: NodeId | None) -> None:
    connections = Connections()
    connections.couriers.send(node, "n2:1", b"frame")
    assert connections.by_lane == [(N2, Lane.CONTROL, b"frame")]
    assert connections.by_contact == []


def test_a_peer_whose_lane_is_still_dialled_is_spoken_to_by_a_contact() -> None:
    connections = Connections()
    connections.is_connected = False
    connections.couriers.send(N2, "n2:1", b"frame")
    assert connections.by_contact == [("n2:1", b"frame", N2)]


@pytest.mark.parametrize(
    ("node", "address"),
    [
        pytest.param(N2, "n2:9", id="a standing peer that lives elsewhere now"),
        pytest.param(N3, "n2:1", id="another that lives where the peer did"),
        pytest.param(N3, "n3:1", id="another"),
        pytest.param(None, "seed:1", id="a seed"),
    ],
)
def test_all_others_are_spoken_to_by_a_contact(node: NodeId | None, address: str) -> None:
    connections = Connections()
    connections.couriers.send(node, address, b"frame")
    assert connections.by_contact == [(address, b"frame", node)]
    assert connections.by_lane == []


@pytest.mark.parametrize("by_name", [True, False], ids=["by name", "as a seed"])
def test_whoever_stands_at_the_moment_is_spoken_to_on_its_control_lane(by_name: bool) -> None:
    connections = Connections()
    sent = connections.couriers.send
    connections.pool.peers = {N3: "n3:1"}
    sent(N3 if by_name else None, "n3:1", b"1")
    sent(N2 if by_name else None, "n2:1", b"2")
    assert connections.by_lane == [(N3, Lane.CONTROL, b"1")]
    assert connections.by_contact == [("n2:1", b"2", N2 if by_name else None)]


async def test_no_word_is_lost_when_a_peer_begins_and_ceases_to_stand() -> None:
    async with listening("n2") as (node,), connections(N1, {}) as (pool, contacts):
        couriers = MemberCouriers(pool, contacts)
        said = []
        for turn in range(6):
            stands = turn % 2 == 1
            pool.set_peers({N2: node.address} if stands else {})
            for number in (2 * turn, 2 * turn + 1):
                couriers.send(N2, node.address, encode_frame(Kind.SWIM, number, b""))
                said.append(number)
                await until(lambda: pool.is_connected(N2) is stands)  # noqa: B023
            await until(lambda: sorted(node.received) == said)
        assert len(node.dialled_on) == 1 + 3 * 3, "one contact, and lanes each time"
        await until(lambda: sum(guest.is_open for guest in node.guests) == 1 + 3)


async def test_whoever_is_heard_is_forgiven_and_contacts_are_drained() -> None:
    connections = Connections()
    connections.couriers.heard("n3:1")
    await connections.couriers.drain()
    assert connections.forgiven == ["n3:1"]
    assert connections.drained_s == [DRAIN_S_MAX]


# -- troubles -------------------------------------------------------------------------------


class Book:
    """The contacts of ``n1``, and the hints that they gave."""

    def __init__(self) -> None:
        self.hints: list[tuple[NodeId, bool]] = []
        self.refusals: list[tuple[KVError, str]] = []
        handshake: Any = SimpleNamespace(make_hello=None, check_welcome=None)
        self.contacts = make_contacts(
            cast("Handshake", handshake),
            limits=NetLimits.of(LimitsConfig()),
            rng=random.Random(1),
            hint=self._hint,
            on_refused=lambda error, address: self.refusals.append((error, address)),
        )

    def _hint(self, node: NodeId, *, is_gone: bool) -> None:
        self.hints.append((node, is_gone))


@pytest.mark.parametrize(
    ("error", "is_gone"),
    [(NobodyListens("connection refused"), True), (Unavailable("no answer"), False)],
)
async def test_a_member_that_cannot_be_reached_is_a_hint_and_no_line(
    error: KVError, is_gone: bool, caplog: pytest.LogCaptureFixture
) -> None:
    book = Book()
    book.contacts.unreachable("n2:1", N2, error)
    assert book.hints == [(N2, is_gone)]
    assert lines(caplog) == []


async def test_a_lost_connection_is_a_hint_and_no_line(caplog: pytest.LogCaptureFixture) -> None:
    book = Book()
    book.contacts.lost(N2, "n2:1")
    assert book.hints == [(N2, False)]
    assert lines(caplog) == []


@pytest.mark.parametrize("node", [N2, None])
async def test_one_that_has_removed_this_node_is_no_hint_and_no_line(
    node: NodeId | None, caplog: pytest.LogCaptureFixture
) -> None:
    book, error = Book(), Removed("n1 was removed")
    book.contacts.unreachable("n2:1", node, error)
    assert book.refusals == [(error, "n2:1")]
    assert book.hints == []
    assert lines(caplog) == []


async def test_a_seed_that_may_yet_begin_is_no_line(caplog: pytest.LogCaptureFixture) -> None:
    Book().contacts.unreachable(SEED, None, Unavailable("no answer within 1 s"))
    assert lines(caplog) == []


async def test_a_seed_that_does_not_answer_is_one_line_in_a_while(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = Book()
    for patience_s in (2.0, 0.0, 0.0):
        monkeypatch.setattr(membership, "SEED_PATIENCE_S", patience_s)
        for seed in (SEED, "other:1"):
            book.contacts.unreachable(seed, None, Unavailable(f"{seed}: no answer within 1 s"))
    assert lines(caplog) == [
        (
            "WARNING",
            f"the seed {seed} does not answer, and is asked again: {seed}: no answer within 1 s",
        )
        for seed in (SEED, "other:1")
    ]
    assert book.hints == []


@pytest.mark.parametrize(
    "error",
    [
        Refused("the node at its address is of cluster 'other'"),
        Refused("two nodes are called n1"),
        ClockAhead("n2's clock is 9000 ms ahead"),
    ],
)
async def test_a_seed_that_is_not_to_be_talked_to_is_one_line_that_says_why(
    error: KVError, caplog: pytest.LogCaptureFixture
) -> None:
    book = Book()
    for _ in range(3):
        book.contacts.unreachable(SEED, None, error)
    assert lines(caplog) == [
        ("WARNING", f"nobody of this cluster answers at {SEED}: {error.message}")
    ]
    assert book.hints == []

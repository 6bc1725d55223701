"""The pure parts: breaker, backoff, session, route, read window, gathering."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.client.backoff import (
    BACKOFF_CAP_S,
    SEEK_DELAY_S_MAX,
    SEEK_DELAY_S_MIN,
    refusal_backoff,
    seek_delay_s,
)
from kvstore.client.batches import WriteBatch
from kvstore.client.breaker import BreakerState, CircuitBreaker
from kvstore.client.gathering import Gathering
from kvstore.client.read_window import ReadWindow
from kvstore.client.route import Contact, Route
from kvstore.client.session import RevisionEstimate, Session
from kvstore.errors import NotLeader, Unavailable
from kvstore.hlc import revision_at
from kvstore.ids import NodeId, ShardId
from kvstore.kv.commands import PUT
from kvstore.kv.sessions import SEQ_WINDOW

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Callable

N1, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")


# -- backoff ----------------------------------------------------------------------------------


def test_backoff_window_doubles_up_to_its_cap() -> None:
    rng = random.Random(1)
    backoffs = [refusal_backoff(rng) for _ in range(500)]
    for window_s in (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.25, 0.25):
        waits = [backoff.next_s() for backoff in backoffs]
        assert 0 <= min(waits) < window_s * 0.1
        assert window_s * 0.9 < max(waits) <= window_s <= BACKOFF_CAP_S


def test_seeking_pauses_a_few_milliseconds() -> None:
    rng = random.Random(1)
    waits = [seek_delay_s(rng) for _ in range(500)]
    assert min(waits) >= SEEK_DELAY_S_MIN
    assert max(waits) <= SEEK_DELAY_S_MAX
    assert max(waits) - min(waits) > 0.01


# -- breaker ----------------------------------------------------------------------------------


def new_breaker() -> CircuitBreaker:
    return CircuitBreaker(open_s_min=0.1, open_s_max=0.5, rng=random.Random(1))


def test_breaker_lets_everything_pass_while_closed() -> None:
    breaker = new_breaker()
    assert all(breaker.try_acquire(0.0) for _ in range(3))
    assert breaker.state(0.0) is BreakerState.CLOSED


def test_breaker_opens_then_lets_one_trial_pass() -> None:
    breaker = new_breaker()
    breaker.failed(10.0)
    assert breaker.state(10.0) is BreakerState.OPEN
    assert not breaker.try_acquire(10.01)
    assert breaker.state(10.1) is BreakerState.HALF_OPEN
    assert breaker.try_acquire(10.1)
    assert not breaker.try_acquire(10.2)
    breaker.succeeded()
    assert breaker.state(10.2) is BreakerState.CLOSED


def test_breaker_waits_longer_after_each_failed_trial() -> None:
    breaker, now, waits = new_breaker(), 0.0, []
    for _ in range(8):
        breaker.failed(now)
        waits.append(breaker.retry_at - now)
        now = breaker.retry_at
        assert breaker.try_acquire(now)
    assert 0.05 <= waits[0] <= 0.1
    assert 0.1 <= waits[1] <= 0.2
    assert all(0.25 <= wait <= 0.5 for wait in waits[3:])


# -- session ----------------------------------------------------------------------------------


def test_session_numbers_from_one_and_acknowledges_in_order() -> None:
    session = Session(7, 8, outstanding_max=32)
    assert [session.begin() for _ in range(3)] == [(1, 1), (2, 1), (3, 1)]
    session.settle(2)
    assert session.begin() == (4, 1)
    session.settle(1)
    assert session.begin() == (5, 3)
    for seq in (3, 4, 5):
        session.settle(seq)
    assert session.begin() == (6, 6)


def test_session_bounds_what_is_outstanding() -> None:
    session = Session(7, 8, outstanding_max=2)
    session.begin()
    session.begin()
    assert not session.has_room
    session.settle(2)
    assert session.has_room


def test_session_stays_within_the_shards_window_behind_a_stuck_batch() -> None:
    session = Session(7, 8, outstanding_max=32)
    session.begin()
    while session.has_room:
        seq, ack_below = session.begin()
        assert ack_below == 1
        session.settle(seq)
    assert seq == SEQ_WINDOW
    session.settle(1)
    assert session.begin() == (SEQ_WINDOW + 1, SEQ_WINDOW + 1)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=200), st.integers(1, 40))
def test_session_rules_hold_for_any_order(steps: list[tuple[bool, int]], most: int) -> None:
    session, outstanding = Session(1, 1, outstanding_max=most), list[int]()
    acked = 1
    for is_begin, pick in steps:
        if is_begin and session.has_room:
            seq, ack_below = session.begin()
            outstanding.append(seq)
            assert acked <= ack_below == min(outstanding)
            assert seq < ack_below + SEQ_WINDOW
            acked = ack_below
        elif outstanding:
            session.settle(outstanding.pop(pick % len(outstanding)))
        assert len(outstanding) <= most


def test_revision_estimate_goes_on_with_the_clock_and_never_back() -> None:
    estimate = RevisionEstimate()
    assert estimate.at(5.0) == 0
    estimate.observe(revision_at(1000) + 3, 5.0)
    assert estimate.at(5.0) == revision_at(1000) + 3
    assert estimate.at(5.25) == revision_at(1250)
    estimate.observe(revision_at(1100), 5.25)
    assert estimate.at(5.25) == revision_at(1250)
    estimate.observe(revision_at(2000), 5.25)
    assert estimate.at(6.25) == revision_at(3000)


# -- route ------------------------------------------------------------------------------------


class Contacts:
    def __init__(self, **states: Contact) -> None:
        self.states = states

    def __call__(self, node: NodeId) -> Contact:
        return self.states.get(node, Contact.OPEN)


EVERYBODY = Contacts()


def test_route_asks_each_replica_once_a_round() -> None:
    route = Route([N1, N2, N3])
    assert [route.pick(EVERYBODY) for _ in range(4)] == [N1, N2, N3, None]
    route.next_round()
    assert [route.pick(EVERYBODY) for _ in range(4)] == [N2, N3, N1, None]


def test_route_follows_a_hint_first_and_stays_with_who_serves() -> None:
    route = Route([N1, N2, N3])
    route.suggest(N3)
    assert route.pick(EVERYBODY) == N3
    route.refused(N3, hint=N2, is_open=True)
    assert route.pick(EVERYBODY) == N2
    route.served(N2)
    assert route.leader == N2
    route.suggest(N1)
    assert route.leader == N2


def test_route_leaves_a_lost_leader_even_if_others_name_it() -> None:
    route = Route([N1, N2, N3])
    route.served(N1)
    route.lost(N1)
    contact = Contacts(n1=Contact.DOWN)
    assert route.pick(contact) == N2
    route.refused(N2, hint=N1, is_open=False)
    assert route.pick(contact) == N3
    route.refused(N3, hint=N1, is_open=False)
    assert route.pick(contact) is None


def test_route_believes_a_leader_that_names_its_successor() -> None:
    route = Route([N1, N2, N3])
    route.served(N1)
    route.refused(N1, hint=N2, is_open=True)
    assert route.leader == N2
    route.refused(N2, hint=N1, is_open=True)
    assert route.leader is None, "two that name each other are asked once a round"
    assert route.pick(EVERYBODY) == N3
    route.next_round()
    assert route.pick(EVERYBODY) == N1, "the last hint"


def test_route_believes_nobody_else_and_no_name_that_it_cannot_reach() -> None:
    route = Route([N1, N2, N3])
    route.refused(N1, hint=N2, is_open=True)
    assert route.leader is None
    route.served(N1)
    route.refused(N1, hint=N2, is_open=False)
    assert route.leader is None


def test_route_begins_anew_once_a_successor_has_served() -> None:
    route = Route([N1, N2, N3])
    route.served(N1)
    route.refused(N1, hint=N2, is_open=True)
    route.served(N2)
    route.refused(N2, hint=N1, is_open=True)
    assert route.leader == N1, "it was handed back"


def test_route_waits_for_a_hinted_node_whose_connection_is_being_made() -> None:
    route = Route([N1, N2, N3])
    route.suggest(N2)
    assert route.pick(Contacts(n2=Contact.OPENING)) is None
    assert route.pick(Contacts(n2=Contact.DOWN)) == N1


def test_route_ignores_refusals_from_before_the_present_leader() -> None:
    route = Route([N1, N2, N3])
    route.served(N2)
    route.refused(N1, hint=N3, is_open=True)
    route.lost(N3)
    assert route.leader == N2


def test_route_asks_a_busy_leader_again_in_the_same_round() -> None:
    route = Route([N1, N2, N3])
    route.suggest(N2)
    assert route.pick(EVERYBODY) == N2
    route.busy(N2)
    assert route.pick(EVERYBODY) == N2
    route.busy(N1)
    assert route.pick(EVERYBODY) == N1


def test_route_forgets_nodes_that_left_the_shard() -> None:
    route = Route([N1, N2])
    route.served(N1)
    route.learn([N2, N3])
    assert route.leader is None
    assert [route.pick(EVERYBODY) for _ in range(3)] == [N2, N3, None]


# -- read window ------------------------------------------------------------------------------


def test_read_window_learns_from_answers() -> None:
    window = ReadWindow(budget_bytes=1 << 20, keys_max=4096, batches_max=4)
    assert window.batch_keys_max == 64  # of 4 KiB, as long as nothing is known
    window.observe(100 << 10, keys=1)
    assert window.batch_keys_max == 2
    for _ in range(50):
        window.observe(32 * 100, keys=100)
    assert window.batch_keys_max == 4096


def test_read_window_bounds_keys_and_batches_but_lets_one_pass() -> None:
    window = ReadWindow(budget_bytes=1 << 20, keys_max=4096, batches_max=2)
    assert window.has_room(1_000_000)
    window.begin(200)
    assert window.has_room(56)
    assert not window.has_room(57)
    window.begin(1)
    assert not window.has_room(1)
    window.end(200)
    window.end(1)
    assert window.has_room(1_000_000)


# -- gathering --------------------------------------------------------------------------------


class Dues:
    """Counts how often somebody is told that something is due."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def new_gathering(
    commands_max: int = 9, on_due: Callable[[], None] = lambda: None
) -> Gathering[WriteBatch]:
    return Gathering(
        lambda: WriteBatch(ShardId(0)),
        asyncio.get_running_loop().create_future,
        on_due,
        commands_max=commands_max,
        bytes_max=100,
    )


def add(gathering: Gathering[WriteBatch], size: int = 1, deadline: float = 10.0) -> Future[Any]:
    return gathering.add((0, b"k", b"v"), size, deadline)


async def test_gathering_fills_batches_by_count_and_bytes() -> None:
    gathering = new_gathering(3)
    for size in (10, 10, 10, 90, 500, 1):
        add(gathering, size)
    sizes = []
    while gathering.batches:
        batch = gathering.pop().operations
        sizes.append((len(batch), batch.bytes))
    assert sizes == [(3, 30), (1, 90), (1, 500), (1, 1)]


async def test_a_batch_that_is_full_waits_for_nothing_more() -> None:
    gathering = new_gathering(2)
    add(gathering)
    assert gathering.may_grow
    add(gathering)
    assert not gathering.may_grow


async def test_what_is_put_back_goes_first_and_does_not_grow() -> None:
    gathering = new_gathering()
    add(gathering)
    back = gathering.pop()
    gathering.put_back([back])
    add(gathering)
    assert gathering.pop() is back
    assert len(back.operations) == 1
    assert len(gathering.pop().operations) == 1


async def test_gathering_tells_of_each_batch_and_of_each_earlier_deadline() -> None:
    dues = Dues()
    gathering = new_gathering(3, dues)
    told = []
    for deadline in (10.0, 10.0, 9.0, 10.0, 11.0):
        add(gathering, deadline=deadline)
        told.append(dues.count)
    assert told == [1, 1, 2, 3, 3]
    assert gathering.deadline == 9.0


async def test_gathering_expires_what_is_due_and_hands_out_empty_batches() -> None:
    gathering = new_gathering(1)
    early, late = add(gathering, deadline=1.0), add(gathering, deadline=2.0)
    assert gathering.deadline == 1.0
    (empty,) = gathering.expire(1.5, Unavailable("nobody leads"))
    assert empty.operations.entered == 1
    with pytest.raises(Unavailable, match="nobody leads"):
        early.result()
    assert gathering.deadline == 2.0
    assert gathering.first.operations.futures == [late]
    gathering.commands_max = 2
    add(gathering, deadline=3.0)
    assert len(gathering.first.operations) == 2


async def test_callers_get_errors_of_their_own() -> None:
    gathering = new_gathering()
    first, second = add(gathering, deadline=1.0), add(gathering, deadline=1.0)
    error = NotLeader("moved", leader="n2", may_have_applied=True)
    gathering.expire(1.0, error)
    errors = [first.exception(), second.exception()]
    assert errors[0] is not errors[1]
    for each in errors:
        assert isinstance(each, NotLeader)
        assert (each.message, each.leader, each.may_have_applied) == ("moved", "n2", True)


async def test_who_left_is_not_sent_and_still_counts_at_the_gate() -> None:
    gathering = new_gathering()
    futures = [gathering.add((PUT, key, b""), 10, due) for key, due in ((b"a", 1.0), (b"b", 2.0))]
    futures[0].cancel()
    operations = gathering.pop().operations
    operations.drop_unwanted()
    assert (operations.commands, operations.futures) == ([(PUT, b"b", b"")], futures[1:])
    assert operations.deadlines == [2.0]
    assert (operations.entered, operations.bytes) == (2, 20)
    assert operations.is_wanted
    futures[1].cancel()
    assert not operations.is_wanted


async def test_halves_share_what_entered_the_gate() -> None:
    gathering = new_gathering()
    futures = [add(gathering, 10) for _ in range(5)]
    futures[0].cancel()
    first, second = gathering.pop().operations.halves()
    assert (first.futures, second.futures) == (futures[1:3], futures[3:])
    assert first.entered + second.entered == 5
    assert first.bytes + second.bytes == 50


async def test_a_half_may_be_all_that_is_left() -> None:
    gathering = new_gathering()
    futures = [add(gathering, 10) for _ in range(2)]
    futures[0].cancel()
    operations = gathering.pop().operations
    (half,) = operations.halves()
    assert half.futures == futures[1:]
    assert (half.entered, half.bytes) == (2, 20)
    futures[1].cancel()
    assert half.halves() == []

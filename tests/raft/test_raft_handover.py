"""When a core asks its driver to look at it, and when it need not."""

from __future__ import annotations

from raft_solo import R1, R2, R3, Solo, led

from kvstore.ids import LogIndex, Term
from kvstore.raft.messages import AppendResponse, HeartbeatResponse
from kvstore.raft.ready import Role


def hears(solo: Solo, message: AppendResponse | HeartbeatResponse) -> bool:
    """Whether something follows from the message."""
    solo.core.step(message, solo.now)
    return solo.core.has_ready()


def test_nothing_follows_from_an_answer_about_what_is_committed() -> None:
    solo = led()
    index, term = solo.core.propose(b"x", solo.now)
    solo.drain()
    assert hears(solo, AppendResponse(R2, R1, term, index)), "it is committed"
    solo.drain()
    assert not hears(solo, AppendResponse(R3, R1, term, index))


def test_nothing_follows_from_a_leaders_own_write_alone() -> None:
    solo = led()
    solo.disk_is_slow = True
    index, term = solo.core.propose(b"x", solo.now)
    solo.drain()
    solo.core.persisted(index, term, solo.now)
    assert not solo.core.has_ready()
    assert hears(solo, AppendResponse(R3, R1, term, index))


def test_a_leaders_own_write_completes_a_quorum() -> None:
    solo = led()
    solo.disk_is_slow = True
    index, term = solo.core.propose(b"x", solo.now)
    solo.drain()
    assert not hears(solo, AppendResponse(R3, R1, term, index))
    solo.core.persisted(index, term, solo.now)
    assert solo.core.has_ready()


def test_a_followers_write_matters_once_it_is_committed() -> None:
    solo = Solo()
    solo.disk_is_slow = True
    solo.append(R2, 1, (0, 0), "1")
    solo.append(R2, 1, (1, 1), "1", commit=2)
    solo.core.persisted(LogIndex(1), solo.core.term, solo.now)
    assert solo.core.has_ready()
    solo.drain()
    solo.append(R2, 1, (2, 1), "1", commit=2)
    solo.core.persisted(LogIndex(2), solo.core.term, solo.now)
    assert solo.core.has_ready()
    solo.drain()
    solo.core.persisted(LogIndex(3), solo.core.term, solo.now)
    assert not solo.core.has_ready()


def test_an_answer_that_makes_room_in_the_window_is_followed_by_more() -> None:
    solo = led()
    solo.ack(R2)
    lead = solo.core._state.leading
    assert lead is not None
    window = solo.core._state.options.inflight_messages_max
    for _ in range(window + 1):
        index, term = solo.core.propose(b"x", solo.now)
        solo.drain()
    assert lead.tracker.peers[R2].next_index == index, "the last one waits"
    assert hears(solo, AppendResponse(R2, R1, term, LogIndex(index - window)))
    solo.drain()
    assert lead.tracker.peers[R2].next_index == index + 1


def test_a_lost_role_is_news_though_nothing_is_sent() -> None:
    solo = led()
    solo.core.tick(solo.now)
    solo.drain()
    term = solo.core.term
    solo.core.step(AppendResponse(R2, R1, Term(term + 1), LogIndex(0)), solo.now)
    assert solo.core.role is Role.FOLLOWER
    assert solo.core.has_ready()

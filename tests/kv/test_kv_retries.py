"""A batch that arrives twice is run once: sessions, their window, and how they end."""

from __future__ import annotations

import pytest
from kv_model import LIMITS, SECOND, START_MS, Replica, Sent, outcome

from kvstore.errors import InvalidArgument, SessionExpired
from kvstore.hlc import revision_at
from kvstore.kv import replies
from kvstore.kv.commands import CAS, DELETE, PUT
from kvstore.kv.engine import Space, space_range
from kvstore.kv.sessions import CREATED_AHEAD_MS_MAX, SEQ_WINDOW

START = revision_at(START_MS)
ALICE = (START, 1)
TTL = LIMITS.session_ttl_ms * SECOND // 1000


@pytest.fixture
def replica() -> Replica:
    return Replica()


def put(seq: int, value: bytes, *, ack_below: int = 1, session: tuple[int, int] = ALICE) -> Sent:
    return Sent(session, seq, ack_below, ((PUT, b"k", value),))


def refusal(reply: bytes) -> type[Exception] | None:
    first, what = outcome(reply, 1)
    return what if first is None and isinstance(what, type) else None


def value(replica: Replica) -> bytes | None:
    replica.write()
    (found,) = replica.machine.get_many([b"k"])
    return None if found is None else found[0]


def stored_sessions(replica: Replica) -> int:
    return len(list(replica.engine.snapshot_rows(*space_range(5, Space.SESSIONS))))


def test_a_batch_twice_in_one_entry_is_run_once(replica: Replica) -> None:
    swap = Sent(ALICE, 1, 1, ((CAS, b"k", None, b"1"), (DELETE, b"other")))
    first, second = replica.send(START, swap, swap)
    assert first == second
    assert outcome(second, 2) == (START, [True, False])


def test_a_batch_again_in_the_same_engine_write_is_run_once(replica: Replica) -> None:
    (first,) = replica.send(START, put(1, b"1"))
    replica.send(START + 1, put(2, b"2"))
    (again,) = replica.send(START + 2, put(1, b"1"))
    assert again == first
    assert value(replica) == b"2"


@pytest.mark.parametrize("restarts", [False, True])
def test_a_retry_after_the_engine_write_gets_the_same_bytes(
    replica: Replica, restarts: bool
) -> None:
    (first,) = replica.send(START, put(1, b"1"))
    replica.send(START + 1, put(2, b"2"))
    replica.write()
    if restarts:
        replica.restart()
    (again,) = replica.send(START + SECOND, put(1, b"1"))
    assert again == first
    assert value(replica) == b"2"


def test_without_a_session_a_batch_is_run_each_time(replica: Replica) -> None:
    free = Sent((0, 0), 0, 0, ((DELETE, b"k"),))
    replica.send(START, put(1, b"1"))
    assert [outcome(reply, 1)[1] for reply in replica.send(START + 1, free, free)] == [
        [True],
        [False],
    ]
    replica.write()
    assert stored_sessions(replica) == 1


def test_a_retry_of_what_the_client_has_settled_is_of_unknown_outcome(replica: Replica) -> None:
    replica.send(START, put(1, b"1"), put(2, b"2", ack_below=2))
    (late,) = replica.send(START + 2, put(1, b"1"))
    error = replies.decode_reply(late, 1)
    assert isinstance(error, SessionExpired)
    assert error.may_have_applied
    assert value(replica) == b"2"


def test_settled_replies_are_forgotten_and_acknowledging_never_goes_back(replica: Replica) -> None:
    for seq in range(1, 40):
        replica.send(START + seq, put(seq, b"x" * 64, ack_below=max(1, seq - 2)))
    (late_but_kept,) = replica.send(START + 100, put(38, b"", ack_below=1))
    assert outcome(late_but_kept, 1) == (START + 38, [True])
    (settled,) = replica.send(START + 101, put(36, b"", ack_below=1))
    assert refusal(settled) is SessionExpired


def test_the_window_is_64(replica: Replica) -> None:
    last, beyond = SEQ_WINDOW, SEQ_WINDOW + 1
    in_window, out = replica.send(START, put(last, b"in"), put(beyond, b"out"))
    assert outcome(in_window, 1) == (START, [True])
    assert refusal(out) is InvalidArgument
    (moved_on,) = replica.send(START + 2, put(beyond, b"next", ack_below=2))
    assert outcome(moved_on, 1) == (START + 2, [True])


def test_a_new_session_may_begin_anywhere_but_within_its_own_window(replica: Replica) -> None:
    far, too_far = put(10**18, b"1", ack_below=10**18), put(100, b"2", session=(START, 2))
    answers = replica.send(START, far, too_far, put(3, b"", ack_below=4, session=(START, 3)))
    assert outcome(answers[0], 1) == (START, [True])
    assert [refusal(answer) for answer in answers[1:]] == [InvalidArgument] * 2
    replica.write()
    assert stored_sessions(replica) == 1


def test_an_invalid_batch_leaves_neither_data_nor_session(replica: Replica) -> None:
    mixed = Sent(ALICE, 1, 1, ((PUT, b"k", b"1"), (PUT, b"", b"2")))
    (reply,) = replica.send(START, mixed)
    assert refusal(reply) is InvalidArgument
    assert value(replica) is None
    assert stored_sessions(replica) == 0
    (corrected,) = replica.send(START + 2, put(1, b"1"))
    assert outcome(corrected, 1) == (START + 2, [True])


def test_an_idle_session_expires_by_the_logs_time_and_never_comes_back(replica: Replica) -> None:
    replica.send(START, put(1, b"1"))
    other = put(1, b"2", session=(START + 2 * TTL, 2))
    replica.send(START + TTL + SECOND, other)
    (late,) = replica.send(START + TTL + 2 * SECOND, put(1, b"1"))
    error = replies.decode_reply(late, 1)
    assert isinstance(error, SessionExpired)
    assert not error.may_have_applied
    replica.write()
    replica.restart()
    (later,) = replica.send(START + 9 * TTL, put(2, b"1"))
    assert refusal(later) is SessionExpired


def test_a_session_lives_as_long_as_it_is_used_and_a_retry_is_use(replica: Replica) -> None:
    (first,) = replica.send(START, put(1, b"1"))
    for step in range(1, 5):
        replica.write()
        (again,) = replica.send(START + step * TTL, put(1, b"1"))
        assert again == first


def test_time_that_only_noops_see_expires_nothing(replica: Replica) -> None:
    (first,) = replica.send(START, put(1, b"1"))
    replica.apply_noop()
    replica.apply_config(b"opaque")
    (again,) = replica.send(START + TTL, put(1, b"1"))
    assert again == first


@pytest.mark.parametrize("restarts", [False, True])
def test_the_least_recently_active_goes_when_there_are_too_many(
    replica: Replica, restarts: bool
) -> None:
    sessions = [(START + number, number) for number in range(1, LIMITS.sessions_max + 1)]
    for at, session in enumerate(sessions):
        replica.send(START + at, put(1, b"1", session=session))
    replica.send(START + 50, put(2, b"1", session=sessions[0]))
    replica.write()
    if restarts:
        replica.restart()
    newcomer = put(1, b"1", session=(START + 60, 60))
    assert outcome(replica.send(START + 60, newcomer)[0], 1) == (START + 60, [True])
    evicted = put(2, b"2", session=sessions[1])
    assert refusal(replica.send(START + 61, evicted)[0]) is SessionExpired
    kept = replica.send(START + 62, *(put(3, b"3", session=s) for s in (sessions[0], sessions[2])))
    assert [outcome(reply, 1)[1] for reply in kept] == [[True], [True]]
    replica.write()
    assert stored_sessions(replica) == LIMITS.sessions_max


def test_no_unknown_session_at_or_below_one_that_went_is_taken_for_new(replica: Replica) -> None:
    for number in range(1, LIMITS.sessions_max + 2):
        replica.send(START + number, put(1, b"1", session=(START + number, 0)))
    below, at, above = (
        replica.send(START + 90 + i, put(1, b"", session=(START + 1 + i, 77)))[0]
        for i in (-1, 0, 1)
    )
    assert [refusal(below), refusal(at), refusal(above)] == [SessionExpired] * 2 + [None]


@pytest.mark.parametrize("created", [START - 9 * TTL, START + 9 * TTL])
def test_a_refusal_says_when_a_session_is_welcome(replica: Replica, created: int) -> None:
    """As when all dates are set back, or one was wrong: the log's time is another than ours."""
    replica.send(START, put(1, b"1"))
    replica.send(START + 2 * TTL, put(1, b"2", session=(START + 2 * TTL, 2)))
    (refused,) = replica.send(START + 2 * TTL + 1, put(1, b"3", session=(created, 3)))
    error = replies.decode_reply(refused, 1)
    assert isinstance(error, SessionExpired)
    (again,) = replica.send(START + 2 * TTL + 2, put(1, b"3", session=(error.welcome_at, 4)))
    assert outcome(again, 1) == (START + 2 * TTL + 2, [True])


def test_welcome_is_above_the_horizon_even_if_that_is_ahead(replica: Replica) -> None:
    ahead = START + CREATED_AHEAD_MS_MAX * SECOND // 1000
    for number in range(LIMITS.sessions_max + 1):
        replica.send(START + number, put(1, b"1", session=(ahead, number + 1)))
    (refused,) = replica.send(START + 90, put(2, b"2", session=(ahead, 1)))
    error = replies.decode_reply(refused, 1)
    assert isinstance(error, SessionExpired)
    assert error.welcome_at == ahead + 1
    (again,) = replica.send(START + 91, put(2, b"2", session=(ahead + 1, 1)))
    assert outcome(again, 1) == (START + 91, [True])


def test_a_session_from_the_future_is_refused(replica: Replica) -> None:
    ahead = CREATED_AHEAD_MS_MAX * SECOND // 1000
    near, far = (
        put(1, b"1", session=(START + ahead, 1)),
        put(1, b"2", session=(START + 2 * ahead, 2)),
    )
    answers = replica.send(START, near, far)
    assert outcome(answers[0], 1) == (START, [True])
    assert refusal(answers[1]) is SessionExpired

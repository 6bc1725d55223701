"""Replicas agree to the byte, and with a naive model, whatever the log holds."""

from __future__ import annotations

from dataclasses import dataclass

import msgpack
from hypothesis import given, settings
from hypothesis import strategies as st
from kv_model import FOREIGN, SECOND, START_MS, Model, Replica, Sent, count, outcome

from kvstore.hlc import revision_at
from kvstore.kv.commands import CAS, DELETE, PUT

START = revision_at(START_MS)
KEYS = st.sampled_from([b"a", b"b", b"c" * 16])
VALUES = st.sampled_from([b"", b"1", b"2", b"v" * 64])
COMMANDS = st.one_of(
    st.tuples(st.just(PUT), KEYS, VALUES),
    st.tuples(st.just(DELETE), KEYS),
    st.tuples(st.just(CAS), KEYS, st.none() | VALUES, VALUES),
    st.sampled_from(
        [(PUT, FOREIGN, b""), (PUT, b"", b""), (DELETE, b"k" * 17), (CAS, b"a", None, b"v" * 65)]
    ),
)
SESSIONS = [
    (0, 0),
    (START, 1),
    (START, 2),
    (START + SECOND, 3),
    (START + 90 * SECOND, 4),
    (START + 300 * SECOND, 5),
]
BATCHES = st.builds(
    Sent,
    session=st.sampled_from(SESSIONS),
    seq=st.integers(1, 6) | st.sampled_from([64, 65, 66, 70]),
    ack_below=st.integers(0, 4) | st.just(66),
    commands=st.lists(COMMANDS, min_size=1, max_size=4).map(tuple),
)


@dataclass(frozen=True)
class Step:
    """One entry, how long after the one before, and what the replica does after it."""

    wait_s: int
    batches: list[Sent]
    kind: str
    then: str


STEPS = st.lists(
    st.builds(
        Step,
        wait_s=st.sampled_from([0, 0, 0, 1, 59, 60, 61, 200]),
        batches=st.lists(BATCHES, min_size=1, max_size=4),
        kind=st.sampled_from(["commands"] * 8 + ["noop", "config"]),
        then=st.sampled_from(["go on", "write", "restart"]),
    ),
    max_size=14,
)


def feed(replica: Replica, step: Step, revision: int) -> list[bytes]:
    if step.kind == "noop":
        replica.apply_noop()
        return []
    if step.kind == "config":
        replica.apply_config(str(revision).encode())
        return []
    return replica.send(revision, *step.batches)


@settings(max_examples=150)
@given(steps=STEPS)
def test_however_it_is_written_and_restarted_it_is_what_the_model_says(steps: list[Step]) -> None:
    model, at_once, in_pieces = Model(), Replica(), Replica()
    revision = START
    for step in steps:
        revision += step.wait_s * SECOND
        told = feed(in_pieces, step, revision)
        assert feed(at_once, step, revision) == told
        if step.kind == "commands":
            expected = model.apply(revision, step.batches)
            for reply, (first, effects) in zip(told, expected, strict=True):
                if isinstance(effects, list):
                    assert outcome(reply, len(effects)) == (first, effects)
                else:
                    assert outcome(reply, 1) == (None, effects)
            revision += sum(len(sent.commands) for sent in step.batches)
        if step.then != "go on":
            in_pieces.write()
        if step.then == "restart":
            in_pieces.restart()
        assert in_pieces.counts() == in_pieces.recount()
    in_pieces.write()
    at_once.write()
    assert in_pieces.contents() == at_once.contents()
    assert in_pieces.rows() == model.rows
    assert in_pieces.counts() == at_once.counts() == count(model.rows)
    for key, expected_row in model.rows.items():
        assert in_pieces.machine.get_many([key]) == [(expected_row[0], expected_row[2])]


@settings(max_examples=80)
@given(steps=STEPS, crash_at=st.integers(0, 13))
def test_entries_applied_again_after_a_crash_give_the_same_state(
    steps: list[Step], crash_at: int
) -> None:
    """The engine falls back to its last write and the log is applied again from there."""
    steady, crashing = Replica(), Replica()
    log: list[tuple[Step, int]] = []
    revision = START
    for step in steps:
        revision += step.wait_s * SECOND
        log.append((step, revision))
        revision += sum(len(sent.commands) for sent in step.batches)
    told = [feed(steady, step, at) for step, at in log]
    steady.write()
    for step, at in log[:crash_at]:
        feed(crashing, step, at)
        if step.then == "write":
            crashing.write()
    crashing.restart()
    assert crashing.counts() == crashing.recount()
    survived = crashing.machine.applied_index
    told_again = [feed(crashing, step, at) for step, at in log[survived:]]
    crashing.write()
    assert told_again == told[survived:]
    assert crashing.contents() == steady.contents()


@settings(max_examples=300)
@given(steps=STEPS)
def test_a_batch_of_a_session_is_never_run_a_second_time(steps: list[Step]) -> None:
    """Whatever expires, is evicted or comes back: without a word about how."""
    replica = Replica()
    revision = START
    told: dict[tuple[tuple[int, int], int], bytes] = {}
    for step in steps:
        revision += step.wait_s * SECOND
        for sent, reply in zip(step.batches, replica.send(revision, *step.batches), strict=True):
            was_run = msgpack.unpackb(reply)[0] == 0
            if was_run and sent.session != (0, 0):
                assert told.setdefault((sent.session, sent.seq), reply) == reply
        revision += sum(len(sent.commands) for sent in step.batches)

"""The corpus, replayed: every case ends as it did when it was recorded."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, get_args

import pytest
import wire_decoders
from wire_decoders import (
    CORPUS,
    DECODERS,
    FRAME_BYTES_MAX,
    load,
    outcome,
    parse_hex,
    save,
    write_hex,
)

from kvstore.errors import KVError, NotLeader, from_wire
from kvstore.raft.messages import Message
from kvstore.swim import messages as swim
from kvstore.wire import requests
from kvstore.wire.frames import FrameDecoder
from kvstore.wire.kinds import Kind
from kvstore.wire.raft_codec import decode_messages
from kvstore.wire.swim_codec import decode_message

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", DECODERS)
def test_every_case_ends_as_recorded(name: str) -> None:
    cases = load(name)
    for case in cases:
        found = outcome(DECODERS[name], case.data)
        if os.environ.get("WIRE_REWRITE"):
            case.outcome = found
        assert found == case.outcome, f"{name}.txt: {case.what}"
    if os.environ.get("WIRE_REWRITE"):
        save(name, cases)


@pytest.mark.parametrize("name", DECODERS)
def test_each_has_something_to_accept_and_something_to_refuse(name: str) -> None:
    errors = {error.__name__ for error in DECODERS[name].errors}
    ends = {case.outcome.partition(":")[0] for case in load(name)}
    assert errors <= ends, "every documented error"
    assert ends - errors, "and something good"


def test_every_file_belongs_to_a_decoder() -> None:
    assert {path.stem for path in CORPUS.iterdir()} == set(DECODERS)


def test_there_is_a_frame_of_every_kind() -> None:
    kinds = {
        frame.kind
        for case in load("frames")
        for frame in FrameDecoder(FRAME_BYTES_MAX).feed(case.data)
    }
    assert kinds >= set(Kind)


def test_there_is_a_raft_message_of_every_type() -> None:
    types = {
        type(message)
        for case in load("raft")
        if case.outcome.startswith("[")
        for _, message in decode_messages(case.data)
    }
    assert types == set(Message.__args__)


def test_there_is_a_message_of_the_membership_of_every_type() -> None:
    types = {
        type(decode_message(case.data))
        for case in load("swim")
        if not case.outcome.startswith("ProtocolError")
    }
    assert types == set(get_args(swim.Message))


def test_there_is_an_error_of_every_code() -> None:
    known = {cls for cls in all_errors(KVError) if type(from_wire(cls.code, "")) is cls}
    found = {
        type(requests.decode_error(case.data))
        for case in load("error")
        if not case.outcome.startswith("ProtocolError: error")
        and not case.outcome.startswith("ProtocolError: msgpack")
    }
    assert NotLeader in known
    assert found == known


def all_errors(base: type[KVError]) -> list[type[KVError]]:
    return [base, *(each for sub in base.__subclasses__() for each in all_errors(sub))]


@pytest.mark.parametrize(
    "data", [b"", b"\0", bytes(100), b"\0RUN" + bytes(40) + b"\xff" * 33 + b"x"]
)
def test_bytes_are_written_so_that_they_can_be_read_again(data: bytes) -> None:
    assert parse_hex(write_hex(data)) == data


def test_a_find_is_kept_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_decoders, "CORPUS", tmp_path)
    for data in (b"\x91\x01", bytes(50), b"\x91\x01", b""):
        wire_decoders.keep("codec", data)
    assert [case.data for case in load("codec")] == [b"\x91\x01", bytes(50), b""]
    assert {case.what for case in load("codec")} == {"found by fuzzing"}

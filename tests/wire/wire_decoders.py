"""Everything that is decoded from bytes of others, and the corpus of such bytes.

``corpus/<decoder>.txt`` holds cases in the form ::

    # what it is
    91 95 09 01*4
    ----
    what becomes of it

Bytes are hexadecimal, ``-`` for none; ``xx*n`` stands for ``n`` times those bytes.
``WIRE_REWRITE=1`` writes the outcomes anew, to be read in the diff; ``WIRE_KEEP=1`` adds what
fuzzing finds.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvstore.errors import InvalidArgument, KVError, ProtocolError, Refused
from kvstore.ids import LogIndex
from kvstore.swim.claims import Metadata, State, Vitals
from kvstore.swim.ready import MemberStatus
from kvstore.wire import (
    admin,
    checksums,
    codec,
    hello,
    map_codec,
    membership,
    raft_codec,
    report_codec,
    requests,
    swim_codec,
)
from kvstore.wire.frames import Frame, FrameDecoder, encode_frame

CORPUS = Path(__file__).parent / "corpus"
FRAME_BYTES_MAX = 4096
SHOWN_CHARS = 400
NOTHING = "-"


@dataclass(frozen=True)
class Decoder:
    """One way to read bytes: what it may raise, and how what it gives is written again."""

    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]
    errors: tuple[type[KVError], ...] = (ProtocolError,)


def decode_stream(data: bytes) -> list[Frame]:
    decoder = FrameDecoder(FRAME_BYTES_MAX)
    frames = decoder.feed(data)
    if decoder.error is not None:
        raise decoder.error
    return frames


def encode_stream(frames: list[Frame]) -> bytes:
    return b"".join(encode_frame(f.kind, f.request, f.body, f.flags) for f in frames)


def status_of(row: membership.MemberRow) -> MemberStatus:
    """What is told as ``row``."""
    said = Metadata(row.address, row.zone, row.weight, row.version) if row.address else None
    vitals = Vitals(0, row.map_version, row.load)
    state = State[row.state.upper()]
    return MemberStatus(row.id, said, state, row.incarnation, row.age_s, row.phi, vitals)


def encode_members(reply: membership.MembersReply) -> bytes:
    return membership.encode_members_reply(reply.asked, [status_of(row) for row in reply.members])


REQUEST = (InvalidArgument,)
HANDSHAKE = (ProtocolError, Refused)
DECODERS: dict[str, Decoder] = {
    "frames": Decoder(decode_stream, encode_stream),
    "codec": Decoder(codec.unpack, codec.pack),
    "hello": Decoder(hello.decode_hello, hello.encode_hello, HANDSHAKE),
    "welcome": Decoder(hello.decode_welcome, hello.encode_welcome, HANDSHAKE),
    "raft": Decoder(raft_codec.decode_messages, raft_codec.encode_messages),
    "swim": Decoder(swim_codec.decode_message, swim_codec.encode_message),
    "map": Decoder(map_codec.decode_map, map_codec.encode_map),
    "write": Decoder(requests.decode_write, requests.encode_write, REQUEST),
    "read": Decoder(requests.decode_read, requests.encode_read, REQUEST),
    "scan": Decoder(requests.decode_scan, requests.encode_scan, REQUEST),
    "checksum": Decoder(checksums.decode_checksum, checksums.encode_checksum, REQUEST),
    "events": Decoder(membership.decode_events, membership.encode_events, REQUEST),
    "read_reply": Decoder(
        lambda body: requests.decode_read_reply(body, 2), requests.encode_read_reply
    ),
    "scan_reply": Decoder(
        requests.decode_scan_reply, lambda reply: requests.encode_scan_reply(*reply)
    ),
    "shard_map_reply": Decoder(
        requests.decode_shard_map_reply,
        lambda reply: requests.encode_shard_map_reply(*reply),
    ),
    "status_reply": Decoder(requests.decode_status_reply, requests.encode_status_reply),
    "checksum_reply": Decoder(
        lambda body: checksums.decode_checksum_reply(body, LogIndex(7)),
        checksums.encode_checksum_reply,
    ),
    "members_reply": Decoder(membership.decode_members_reply, encode_members),
    "events_reply": Decoder(membership.decode_events_reply, membership.encode_events_reply),
    "map_news": Decoder(map_codec.decode_news, map_codec.encode_news),
    "reports": Decoder(report_codec.decode_reports, report_codec.encode_reports),
    "order": Decoder(admin.decode_order, admin.encode_order, REQUEST),
    "order_reply": Decoder(admin.decode_order_reply, admin.encode_order_reply),
    "transfer": Decoder(admin.decode_transfer, admin.encode_transfer, REQUEST),
    "error": Decoder(requests.decode_error, requests.encode_error),
}


@dataclass
class Kept:
    """One case of the corpus."""

    what: str
    written: str
    outcome: str

    @property
    def data(self) -> bytes:
        return parse_hex(self.written)


def parse_hex(written: str) -> bytes:
    parts = []
    for token in written.removeprefix(NOTHING).split():
        data, _, times = token.partition("*")
        parts.append(bytes.fromhex(data) * int(times or 1))
    return b"".join(parts)


def write_hex(data: bytes) -> str:
    """In rows that can be read; long runs of one byte in short."""
    shortened = re.sub(
        rb"(.)\1{31,}",
        lambda run: b"\0RUN" + run[0][:1] + b"%d\0" % len(run[0]),
        data,
        flags=re.DOTALL,
    )
    pieces = re.split(rb"\0RUN(.)(\d+)\0", shortened, flags=re.DOTALL)
    words: list[str] = []
    for at in range(0, len(pieces), 3):
        if at:
            words.append(f"{pieces[at - 2].hex()}*{int(pieces[at - 1])}")
        piece = pieces[at]
        words += [piece[start : start + 16].hex() for start in range(0, len(piece), 16)]
    rows = [" ".join(words[start : start + 2]) for start in range(0, len(words), 2)]
    return "\n".join(rows) or NOTHING


def outcome(decoder: Decoder, data: bytes) -> str:
    """What becomes of ``data``, in one line."""
    try:
        value = decoder.decode(data)
    except KVError as error:
        return f"{type(error).__name__}: {error}"
    shown = repr(value)
    return shown if len(shown) <= SHOWN_CHARS else f"{shown[:SHOWN_CHARS]}... ({len(shown)})"


def load(name: str) -> list[Kept]:
    path = CORPUS / f"{name}.txt"
    blocks = path.read_text(encoding="utf-8").split("\n\n") if path.exists() else []
    cases = []
    for block in filter(None, map(str.strip, blocks)):
        asked, _, found = block.partition("\n----\n")
        what, _, written = asked.partition("\n")
        assert what.startswith("# "), f"{path.name}: a case without a comment: {block[:60]}"
        cases.append(Kept(what[2:], written, found))
    return cases


def save(name: str, cases: list[Kept]) -> None:
    text = "\n\n".join(f"# {case.what}\n{case.written}\n----\n{case.outcome}" for case in cases)
    (CORPUS / f"{name}.txt").write_text(text + "\n", encoding="utf-8")


def keep(name: str, data: bytes) -> None:
    """Add what fuzzing found; its outcome is what it becomes once that is mended."""
    cases = load(name)
    if data not in [case.data for case in cases]:
        save(name, [*cases, Kept("found by fuzzing", write_hex(data), "(not recorded yet)")])

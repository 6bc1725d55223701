"""What leaders of groups tell the meta group's members: configurations that are committed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kvstore.errors import ProtocolError
from kvstore.ids import GroupId, LogIndex, ReplicaId
from kvstore.sharding.known import Report
from kvstore.wire.codec import ARRAY, UINT, check_fields, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_FIELDS: Final = (UINT, UINT, ARRAY, ARRAY, ARRAY, UINT, UINT, UINT)


def encode_reports(reports: Iterable[Report]) -> bytes:
    """The body of a REPORTS frame."""
    return pack([_encode(report) for report in reports])


def _encode(report: Report) -> tuple[Any, ...]:
    return (
        report.group,
        report.epoch,
        sorted(report.voters),
        sorted(report.outgoing),
        sorted(report.learners),
        report.leader,
        report.matched,
        report.received_bytes,
    )


def decode_reports(body: bytes) -> list[Report]:
    """Read the body of a REPORTS frame.

    Raises:
        ProtocolError: malformed.
    """
    rows = unpack(body)
    if type(rows) is not list:
        raise ProtocolError("reports: must be an array")
    return [_decode(row) for row in rows]


def _decode(row: Any) -> Report:
    fields = check_fields(row, "report", *_FIELDS)[: len(_FIELDS)]
    group, epoch, voters, outgoing, learners, leader, matched, received_bytes = fields
    return Report(
        GroupId(group),
        epoch,
        _ids(voters),
        _ids(outgoing),
        _ids(learners),
        ReplicaId(leader),
        LogIndex(matched),
        received_bytes,
    )


def _ids(numbers: Sequence[Any]) -> frozenset[ReplicaId]:
    if any(type(number) is not int or number < 1 for number in numbers):
        raise ProtocolError("report: replicas are named by whole numbers")
    return frozenset(map(ReplicaId, numbers))

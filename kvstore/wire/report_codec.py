"""What leaders of groups tell the meta group's members: configurations that are committed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kvstore.errors import ProtocolError
from kvstore.ids import GroupId, ReplicaId
from kvstore.sharding.steering import Report
from kvstore.wire.codec import ARRAY, UINT, check_fields, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_FIELDS: Final = (UINT, UINT, ARRAY, ARRAY, ARRAY)


def encode_reports(reports: Iterable[Report]) -> bytes:
    """The body of a REPORTS frame."""
    return pack(
        [
            (r.group, r.epoch, sorted(r.voters), sorted(r.outgoing), sorted(r.learners))
            for r in reports
        ]
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
    group, epoch, voters, outgoing, learners = check_fields(row, "report", *_FIELDS)[:5]
    return Report(GroupId(group), epoch, _ids(voters), _ids(outgoing), _ids(learners))


def _ids(numbers: Sequence[Any]) -> frozenset[ReplicaId]:
    if any(type(number) is not int or number < 1 for number in numbers):
        raise ProtocolError("report: replicas are named by whole numbers")
    return frozenset(map(ReplicaId, numbers))

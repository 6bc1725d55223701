"""How long moves will take yet, by how fast their bytes have come of late. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvstore.cli.movement import Movement
    from kvstore.ids import GroupId

LOOK_BACK_S: Final = 10.0
"""What was earlier says nothing of the pace: the throttle may have changed."""
STAGES: Final = ("snapshot", "log")
"""In which bytes come."""


@dataclass(slots=True)
class _Seen:
    stage: str
    samples: deque[tuple[float, int]] = field(default_factory=deque)
    """When, and how many bytes had come; neither ever falls."""


class Paces:
    """Invariant: there are samples of the moves that were looked at last, and of no others."""

    def __init__(self) -> None:
        self._seen: dict[tuple[GroupId, str], _Seen] = {}

    def timed(self, moves: Sequence[Movement], now: float) -> list[Movement]:
        """The same moves, each with its ``eta_s`` if there is any telling.

        Args:
            moves: As they are.
            now: Steady seconds.
        """
        seen = {move.key: self._note(move, now) for move in moves if has_pace(move)}
        self._seen = seen
        return [
            replace(move, eta_s=_eta_s(move, seen[move.key])) if has_pace(move) else move
            for move in moves
        ]

    def _note(self, move: Movement, now: float) -> _Seen:
        before = self._seen.get(move.key)
        is_same = before is not None and before.stage == move.stage
        if before is None or not is_same or move.bytes_sent < before.samples[-1][1]:
            before = _Seen(move.stage)  # A snapshot that begins again is another.
        before.samples.append((now, move.bytes_sent))
        while before.samples[0][0] < now - LOOK_BACK_S:
            before.samples.popleft()
        return before


def has_pace(move: Movement) -> bool:
    """Whether bytes come, and it is known how many there are."""
    return move.is_begun and move.stage in STAGES and bool(move.bytes_total)


def _eta_s(move: Movement, seen: _Seen) -> float | None:
    (since, first), (until, last) = seen.samples[0], seen.samples[-1]
    if last <= first or move.bytes_total is None:
        return None
    return max(0, move.bytes_total - last) * (until - since) / (last - first)

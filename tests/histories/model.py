"""What clients did and what they were told: the operations that make a history.

Every key is a register of its own, at first absent. An operation takes effect at one moment
between ``called`` and ``returned``, both included. One of unknown outcome takes effect at any
moment after ``called``, or never. A known failure, certainly not applied, is no part of a history.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

_COUNT_DIGITS_MAX: Final = 40  # far from where Python refuses to turn a number into text
_COUNT: Final = re.compile(rb"-?[0-9]{1,%d}" % _COUNT_DIGITS_MAX)


@dataclass(frozen=True, slots=True)
class Get:
    """Result: the value, or None where there is none."""


@dataclass(frozen=True, slots=True)
class Put:
    """Result: None."""

    value: bytes


@dataclass(frozen=True, slots=True)
class Delete:
    """Result: whether the key existed."""


@dataclass(frozen=True, slots=True)
class CompareAndSwap:
    """Result: whether it swapped. ``expected`` None: the key must be absent."""

    expected: bytes | None
    value: bytes


@dataclass(frozen=True, slots=True)
class Increment:
    """Result: the new count. A counter is kept as decimal ASCII; an absent one counts as 0."""

    by: int = 1


Action = Get | Put | Delete | CompareAndSwap | Increment
Result = bytes | bool | int | None


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of one client.

    ``called`` and ``returned`` are seconds of any clock that all clients share; ``returned`` is
    None where the outcome is unknown, and then there is no result either.

    Raises:
        ValueError: it returned before it was called, a time or count is out of range, or its
            result is none of its action's.
    """

    client: str
    key: bytes
    action: Action
    called: float
    returned: float | None
    result: Result = None

    def __post_init__(self) -> None:
        if isinstance(self.action, Increment) and not _is_count(self.action.by):
            raise ValueError(f"an increment is a number of at most {_COUNT_DIGITS_MAX} digits")
        if not math.isfinite(self.called) or not math.isfinite(self.returned or 0.0):
            raise ValueError(f"called at {self.called}, returned at {self.returned}: not finite")
        if self.returned is None:
            if self.result is not None:
                raise ValueError("an operation of unknown outcome has no result")
        elif not self.called <= self.returned:
            raise ValueError(f"returned at {self.returned}, before it was called at {self.called}")
        elif not fits(self.action, self.result):
            name = type(self.action).__name__
            raise ValueError(f"{name} cannot result in {_shown(self.result)}")


def _is_count(number: object) -> bool:
    return type(number) is int and abs(number) < 10**_COUNT_DIGITS_MAX


def _shown(result: Result) -> str:
    is_huge = type(result) is int and not _is_count(result)
    return f"more than {_COUNT_DIGITS_MAX} digits" if is_huge else repr(result)


def fits(action: Action, result: Result) -> bool:
    """Whether an action can have a result of this kind at all."""
    match action:
        case Get():
            return result is None or type(result) is bytes
        case Put():
            return result is None
        case Delete() | CompareAndSwap():
            return type(result) is bool
        case Increment():
            return _is_count(result)


def count_of(value: bytes | None) -> int | None:
    """The count that a value stands for; None where it is no count."""
    if value is None:
        return 0
    return int(value) if _COUNT.fullmatch(value) else None


def apply(action: Action, value: bytes | None) -> tuple[bytes | None, Result] | None:
    """The register afterwards and the result; None where the action can only fail."""
    match action:
        case Get():
            return value, value
        case Put():
            return action.value, None
        case Delete():
            return None, value is not None
        case CompareAndSwap():
            swaps = value == action.expected
            return (action.value if swaps else value), swaps
        case Increment():
            count = count_of(value)
            return None if count is None else (b"%d" % (count + action.by), count + action.by)

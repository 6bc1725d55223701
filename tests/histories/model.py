"""What clients did and what they were told: the operations that make a history.

Every key is a register of its own, at first absent. An operation takes effect at one moment
between ``called`` and ``returned``, both included. One of unknown outcome takes effect at any
moment after ``called``, or never. A known failure, certainly not applied, is no part of a history.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_COUNT: Final = re.compile(rb"-?[0-9]{1,40}")


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
        ValueError: it returned before it was called, or its result is none of its action's.
    """

    client: str
    key: bytes
    action: Action
    called: float
    returned: float | None
    result: Result = None

    def __post_init__(self) -> None:
        if self.returned is None:
            if self.called != self.called or self.result is not None:
                raise ValueError("an operation of unknown outcome has a time but no result")
        elif not self.called <= self.returned:
            raise ValueError(f"returned at {self.returned}, before it was called at {self.called}")
        elif not fits(self.action, self.result):
            raise ValueError(f"{type(self.action).__name__} cannot result in {self.result!r}")


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
            return type(result) is int


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

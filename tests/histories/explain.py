"""Why a key's history is not linearizable, for a person.

Linearizability is prefix-closed, so there is a first return with which the history cannot be
explained any more. It is found by bisection; all that happened later is left away.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from histories.model import (
    Action,
    CompareAndSwap,
    Delete,
    Get,
    Increment,
    Operation,
    Put,
    Result,
    apply,
)
from histories.search import OutOfSteps, Search
from histories.steps import plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_VALUE_CHARACTERS_MAX: Final = 40
_ORDER_LINES_MAX: Final = 12
_UNPLACED_LINES_MAX: Final = 12
_BAR_CHARACTERS: Final = 40


def explain(key: bytes, operations: Sequence[Operation], steps_max: int) -> str:
    """Tell where a violation begins, the longest order before it, and what does not fit in."""
    prefix, last = _first_violation(operations, steps_max)
    order = _longest_order(prefix, steps_max)
    placed = {id(operation) for operation in order}
    unplaced = [op for op in prefix if op.returned is not None and id(op) not in placed]
    return "\n".join(
        [
            f"key {shown(key)}: no order of its {len(operations)} operations explains every result",
            "the first return that cannot be explained:",
            f"  {line(last)}",
            f"the longest order before it places {len(order)} operations and ends:",
            *(f"  {line(op)}" for op in order[-_ORDER_LINES_MAX:]),
            f"the key is then {_value_after(order)}; not placed:",
            *(f"  {line(op)}" for op in unplaced[:_UNPLACED_LINES_MAX]),
            *_left_out(len(unplaced) - _UNPLACED_LINES_MAX),
            "in time:",
            *_timeline([*order[-_ORDER_LINES_MAX:], *unplaced[:_UNPLACED_LINES_MAX]]),
        ]
    )


def _left_out(count: int) -> Iterator[str]:
    if count > 0:
        yield f"  and {count} more"


def _first_violation(
    operations: Sequence[Operation], steps_max: int
) -> tuple[list[Operation], Operation]:
    """The shortest prefix that is a violation, and the operation whose return ends it."""
    returns = sorted(
        (op for op in operations if op.returned is not None), key=lambda op: op.returned or 0.0
    )
    good, bad = 0, len(returns)
    while bad - good > 1:
        middle = (good + bad) // 2
        if _is_violation(_prefix(operations, returns[:middle]), steps_max):
            bad = middle
        else:
            good = middle
    return _prefix(operations, returns[:bad]), returns[bad - 1]


def _is_violation(operations: Sequence[Operation], steps_max: int) -> bool:
    try:
        return not Search(plan(operations), steps_max).run()
    except OutOfSteps:
        return False


def _prefix(operations: Sequence[Operation], returned: Sequence[Operation]) -> list[Operation]:
    """What was known when the last of these returned; all others are then of unknown outcome."""
    end = returned[-1].returned
    assert end is not None, "only operations that returned are given"
    known = {id(operation) for operation in returned}
    return [
        op if id(op) in known else Operation(op.client, op.key, op.action, op.called, None)
        for op in operations
        if op.called <= end
    ]


def _longest_order(operations: Sequence[Operation], steps_max: int) -> list[Operation]:
    search = Search(plan(operations), steps_max, looks_ahead=False)
    with suppress(OutOfSteps):  # what it found until then is an order too
        search.run()
    return search.longest


def _value_after(order: Sequence[Operation]) -> str:
    value: bytes | None = None
    for operation in order:
        applied = apply(operation.action, value)
        assert applied is not None, "the search places only what can happen"
        value = applied[0]
    return shown(value)


def _timeline(operations: Sequence[Operation]) -> Iterator[str]:
    """One bar an operation, in the order of the calls; an unknown one is open at its end."""
    operations = sorted(operations, key=lambda op: op.called)
    start = operations[0].called
    ends = [op.called if op.returned is None else op.returned for op in operations]
    width = (max(ends) - start) or 1.0
    name_width = max(len(op.client) for op in operations)
    for operation in operations:
        name = operation.client.ljust(name_width)
        yield f"  {name} {_bar(operation, start, width)} {_deed(operation)}"


def _bar(operation: Operation, start: float, width: float) -> str:
    def column(time: float) -> int:
        return round((time - start) / width * (_BAR_CHARACTERS - 1))

    first = column(operation.called)
    if operation.returned is None:
        return (" " * first + "|").ljust(_BAR_CHARACTERS, "?")
    last = column(operation.returned)
    bar = "|" if first == last else "|" + "-" * (last - first - 1) + "|"
    return (" " * first + bar).ljust(_BAR_CHARACTERS)


def line(operation: Operation) -> str:
    """One operation on one line."""
    end = "unknown" if operation.returned is None else f"{operation.returned:.6f}"
    return f"{operation.client}: {_deed(operation)}  [{operation.called:.6f} .. {end}]"


def _deed(operation: Operation) -> str:
    if operation.returned is None:
        return f"{_asked(operation.action)} -> ?"
    if isinstance(operation.action, Put):
        return _asked(operation.action)
    return f"{_asked(operation.action)} -> {shown(operation.result)}"


def _asked(action: Action) -> str:
    match action:
        case Get():
            return "get"
        case Put():
            return f"put {shown(action.value)}"
        case Delete():
            return "delete"
        case CompareAndSwap():
            return f"swap {shown(action.expected)} for {shown(action.value)}"
        case Increment():
            return f"add {action.by}"


def shown(value: Result) -> str:
    """A value for a person, bounded in length; None is an absent key."""
    if value is None:
        return "absent"
    if not isinstance(value, bytes):
        return str(value).lower()
    text = repr(value)[1:]
    if len(text) <= _VALUE_CHARACTERS_MAX:
        return text
    return f"{text[:_VALUE_CHARACTERS_MAX]}... ({len(value)} bytes)"

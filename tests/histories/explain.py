"""Why a key's history is not linearizable, for a person.

Linearizability is prefix-closed, so there is a first return with which the history cannot be
explained any more. It is found by bisection; all that happened later is left away.
"""

from __future__ import annotations

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
_NAME_CHARACTERS_MAX: Final = 40
_LINES_MAX: Final = 12
_BAR_CHARACTERS: Final = 40
_STEPS_MAX: Final = 100_000  # of each search; a reader waits for the explanation


def explain(key: bytes, operations: Sequence[Operation]) -> str:
    """Tell which return cannot be explained, and an order of what had returned before it."""
    returns = sorted((op for op in operations if op.returned is not None), key=_end)
    good = _explained(operations, returns)
    before, last = _prefix(operations, returns[:good]), returns[good]
    order, is_whole = _order_of(before)
    tail, loose = order[-_LINES_MAX:], _loose(before, order, last)
    what = f"an order of the {good} that returned before it" if is_whole else "the last order tried"
    return "\n".join(
        [
            f"key {shown(key)}: no order of its {len(operations)} operations explains every result",
            "the first return that cannot be explained:",
            f"  {line(last)}{_remark(last, operations)}",
            f"{what} ('?': had not returned) places {len(order)} operations and ends:",
            *(f"  {line(op)}" for op in tail),
            f"the key is then {_value_after(order)}; called by then and not placed:",
            *(f"  {line(op)}" for op in loose[-_LINES_MAX:]),
            *([f"  and {len(loose) - _LINES_MAX} earlier ones"] if len(loose) > _LINES_MAX else []),
            "in time:",
            *_timeline([*tail, last], loose[-_LINES_MAX:]),
        ]
    )


def _remark(last: Operation, operations: Sequence[Operation]) -> str:
    if not isinstance(last.action, Get) or last.result is None:
        return ""
    written = {op.action.value for op in operations if isinstance(op.action, Put | CompareAndSwap)}
    counts = any(isinstance(op.action, Increment) for op in operations)
    return "" if last.result in written or counts else "  (a value that nobody ever wrote)"


def _loose(
    before: Sequence[Operation], order: Sequence[Operation], last: Operation
) -> list[Operation]:
    """What an order left out although it may have changed something, by time of call."""
    placed = {id(operation) for operation in order}
    loose = [op for op in before if id(op) not in placed and not isinstance(op.action, Get)]
    same = (last.client, last.called, last.action)
    return sorted(
        (op for op in loose if (op.client, op.called, op.action) != same), key=lambda op: op.called
    )


def _end(operation: Operation) -> float:
    return float("inf") if operation.returned is None else operation.returned


def _explained(operations: Sequence[Operation], returns: Sequence[Operation]) -> int:
    """How many returns, from the first on, an order was found for; the next one spoils it."""
    good, bad = 0, len(returns)
    while bad - good > 1:
        middle = (good + bad) // 2
        if _is_violation(_prefix(operations, returns[:middle])):
            bad = middle
        else:
            good = middle
    return good


def _is_violation(operations: Sequence[Operation]) -> bool:
    try:
        return not Search(plan(operations), _STEPS_MAX).run()
    except OutOfSteps:
        return False


def _prefix(operations: Sequence[Operation], returned: Sequence[Operation]) -> list[Operation]:
    """What was known when the last of these returned; all others are then of unknown outcome."""
    end = _end(returned[-1]) if returned else float("-inf")
    known = {id(operation) for operation in returned}
    return [
        op if id(op) in known else Operation(op.client, op.key, op.action, op.called, None)
        for op in operations
        if op.called <= end
    ]


def _order_of(operations: Sequence[Operation]) -> tuple[list[Operation], bool]:
    """An order, and whether it is whole; otherwise it is what the search tried last."""
    search = Search(plan(operations), _STEPS_MAX)
    try:
        is_whole = search.run()
    except OutOfSteps:
        is_whole = False
    return list(search.order()), is_whole


def _value_after(order: Sequence[Operation]) -> str:
    value: bytes | None = None
    for operation in order:
        applied = apply(operation.action, value)
        assert applied is not None, "the search places only what can happen"
        value = applied[0]
    return shown(value)


def _timeline(placed: Sequence[Operation], loose: Sequence[Operation]) -> Iterator[str]:
    """One bar an operation, in the order of the calls; an unknown one is open at its end."""
    start = min(op.called for op in placed)
    width = max(op.called if op.returned is None else op.returned for op in placed) - start
    operations = sorted([*placed, *loose], key=lambda op: op.called)
    name_width = max(len(_name(op)) for op in operations)
    for operation in operations:
        name = _name(operation).ljust(name_width)
        yield f"  {name} {_bar(operation, start, width or 1.0)} {_deed(operation)}"


def _bar(operation: Operation, start: float, width: float) -> str:
    def column(time: float) -> int:
        share = min(max((time - start) / width, 0.0), 1.0)
        return round(share * (_BAR_CHARACTERS - 1))

    first = column(operation.called)
    if operation.returned is None:
        return (" " * first + "|").ljust(_BAR_CHARACTERS, "?")
    last = column(operation.returned)
    bar = "|" if first == last else "|" + "-" * (last - first - 1) + "|"
    return (" " * first + bar).ljust(_BAR_CHARACTERS)


def line(operation: Operation) -> str:
    """One operation on one line."""
    end = "unknown" if operation.returned is None else f"{operation.returned:.6f}"
    return f"{_name(operation)}: {_deed(operation)}  [{operation.called:.6f} .. {end}]"


def _name(operation: Operation) -> str:
    """The client, in ASCII, so that no name from a file can spoil a terminal or the output."""
    name = ascii(operation.client)[1:-1]
    return name if len(name) <= _NAME_CHARACTERS_MAX else name[:_NAME_CHARACTERS_MAX] + "..."


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

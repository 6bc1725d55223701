"""Two checkers too simple to be wrong, to hold the real one against.

``is_linearizable`` tries every order of every choice, so it serves for up to some seven operations.
``is_linearizable_stepwise`` visits every set of operations that can come first, and every register
that it can lead to, with no rule to skip any: good for some sixteen operations on one key.
"""

from __future__ import annotations

from itertools import combinations, permutations
from typing import TYPE_CHECKING

from histories.model import Operation, apply

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_Configuration = tuple[frozenset[int], bytes | None]


def is_linearizable(history: Iterable[Operation]) -> bool:
    """Whether some order of all known and some unknown operations explains every result."""
    operations = list(history)
    known = [operation for operation in operations if operation.returned is not None]
    unknown = [operation for operation in operations if operation.returned is None]
    return any(
        _explains(order)
        for size in range(len(unknown) + 1)
        for chosen in combinations(unknown, size)
        for order in permutations([*known, *chosen])
    )


def _explains(order: Sequence[Operation]) -> bool:
    return _keeps_real_time(order) and _gives_the_results(order)


def _keeps_real_time(order: Sequence[Operation]) -> bool:
    return not any(
        later.returned is not None and later.returned < earlier.called
        for earlier, later in combinations(order, 2)
    )


def _gives_the_results(order: Sequence[Operation]) -> bool:
    values: dict[bytes, bytes | None] = {}
    for operation in order:
        applied = apply(operation.action, values.get(operation.key))
        if applied is None:
            return False
        values[operation.key], result = applied
        if operation.returned is not None and result != operation.result:
            return False
    return True


def is_linearizable_stepwise(history: Sequence[Operation]) -> bool:
    """Whether a history of one key can be placed operation by operation."""
    known = {index for index, op in enumerate(history) if op.returned is not None}
    start: _Configuration = (frozenset(), None)
    visited, reachable = {start}, [start]
    while reachable:
        placed, value = reachable.pop()
        if known <= placed:
            return True
        for configuration in _one_more(history, placed, value):
            if configuration not in visited:
                visited.add(configuration)
                reachable.append(configuration)
    return False


def _one_more(
    history: Sequence[Operation], placed: frozenset[int], value: bytes | None
) -> Iterator[_Configuration]:
    waiting = [index for index in range(len(history)) if index not in placed]
    first_return = min(_returned(history[index]) for index in waiting)
    for index in waiting:
        operation = history[index]
        applied = apply(operation.action, value)
        if operation.called > first_return or applied is None:
            continue
        if operation.returned is None or applied[1] == operation.result:
            yield placed | {index}, applied[0]


def _returned(operation: Operation) -> float:
    return float("inf") if operation.returned is None else operation.returned

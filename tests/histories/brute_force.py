"""The checker that is too simple to be wrong: it tries every order of every choice.

Its time grows with the factorial of the history, so it serves for up to some seven operations,
to hold the real checker against.
"""

from __future__ import annotations

from itertools import combinations, permutations
from typing import TYPE_CHECKING

from histories.model import Operation, apply

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


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

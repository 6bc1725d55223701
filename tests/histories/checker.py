"""Whether a history is linearizable: ``check``.

Herlihy and Wing, "Linearizability" (1990), Theorem 1: a history is linearizable if and only if
each object's part of it is. So each key is searched on its own (``search``). Whoever cannot be
decided within the allowed steps counts as failed: ``Verdict.ok`` is true only of what was proved.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from histories.explain import explain, shown
from histories.search import OutOfSteps, Search
from histories.steps import plan

if TYPE_CHECKING:
    from collections.abc import Iterable

    from histories.model import Operation

STEPS_MAX: Final = 3_000_000


class Outcome(Enum):
    """What a check came to."""

    LINEARIZABLE = "linearizable"
    VIOLATION = "violation"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Verdict:
    """``key`` is the one that failed, None of a linearizable history."""

    outcome: Outcome
    key: bytes | None
    explanation: str

    @property
    def ok(self) -> bool:
        """Whether the history was proved linearizable."""
        return self.outcome is Outcome.LINEARIZABLE


def check(history: Iterable[Operation], *, steps_max: int = STEPS_MAX) -> Verdict:
    """Decide whether a history is linearizable.

    Args:
        history: Operations in any order, on any keys.
        steps_max: The most steps of the search over all keys; one placed operation is a step.

    Returns:
        The verdict, on the first key that is a violation; where there is none, on the first that
        is undecided.
    """
    keys: dict[bytes, list[Operation]] = defaultdict(list)
    for operation in history:
        keys[operation.key].append(operation)
    steps, undecided = 0, None
    for left, (key, operations) in zip(
        range(len(keys), 0, -1), sorted(keys.items(), key=_size), strict=True
    ):
        # A key that cannot be decided leaves something for the others.
        share = (steps_max - steps) // (2 if left > 1 else 1)
        search = Search(plan(operations), share)
        try:
            linearizable = search.run()
        except OutOfSteps:
            steps += share
            undecided = key if undecided is None else undecided
            continue
        steps += search.steps
        if not linearizable:
            return Verdict(Outcome.VIOLATION, key, explain(key, operations))
    if undecided is not None:
        return Verdict(Outcome.UNDECIDED, undecided, _undecided(undecided, keys, steps_max))
    count = sum(map(len, keys.values()))
    return Verdict(
        Outcome.LINEARIZABLE, None, f"{count} operations on {len(keys)} keys in {steps} steps"
    )


def _size(item: tuple[bytes, list[Operation]]) -> int:
    return len(item[1])


def _undecided(key: bytes, keys: dict[bytes, list[Operation]], steps_max: int) -> str:
    operations = keys[key]
    unknown = sum(operation.returned is None for operation in operations)
    return (
        f"key {shown(key)}: {len(operations)} operations, {unknown} of unknown outcome, "
        f"were not decided within {steps_max} steps in all; allow more, or spread over more keys"
    )

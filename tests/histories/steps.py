"""One key's history made ready for the search: operations become guarded steps of a register.

What the result of an operation says about the register is its guard; what it does to the register
is its effect. The rules here shrink the search and lose no linearization:

* An operation of unknown outcome that changes nothing is left out.
* Values that no guard can tell from one another are made one value, *unseen*.
* An unknown step to the unseen value is left out where no guard asks for "another value than x":
  whatever follows it must be a blind write, or nothing.
* Unknown operations with equal steps are kept together: an earlier called one serves wherever a
  later called one would.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from histories.model import (
    CompareAndSwap,
    Delete,
    Get,
    Increment,
    Operation,
    Put,
    count_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

Value = bytes | None


class Guard(Enum):
    """When a step may happen."""

    ALWAYS = auto()
    IS = auto()
    IS_NOT = auto()
    COUNTS = auto()  # the register holds this very count
    IS_COUNT = auto()  # the register holds any count


class Effect(Enum):
    """What a step does to the register."""

    KEEP = auto()
    SET = auto()
    ADD = auto()


class Impossible(Enum):
    """The answer of a step that may not happen."""

    IMPOSSIBLE = auto()


IMPOSSIBLE: Final = Impossible.IMPOSSIBLE


@dataclass(frozen=True, slots=True)
class Step:
    """``number`` is the count that a guard wants, or that an effect adds."""

    guard: Guard
    effect: Effect
    wanted: Value = None
    value: Value = None
    number: int = 0

    def after(self, state: Value) -> Value | Impossible:
        """The register afterwards."""
        if not self._may_happen(state):
            return IMPOSSIBLE
        if self.effect is Effect.SET:
            return self.value
        if self.effect is Effect.KEEP:
            return state
        count = count_of(state)
        assert count is not None, "guarded by IS_COUNT"
        return b"%d" % (count + self.number)

    def _may_happen(self, state: Value) -> bool:
        guard = self.guard
        if guard is Guard.ALWAYS:
            return True
        if guard is Guard.IS:
            return state == self.wanted
        if guard is Guard.IS_NOT:
            return state != self.wanted
        count = count_of(state)
        return count is not None if guard is Guard.IS_COUNT else count == self.number


def step_of(operation: Operation) -> Step | None:
    """What a returned operation says of the register, or what an unknown one may do to it."""
    action, known = operation.action, operation.returned is not None
    match action:
        case Get():
            value = operation.result
            assert value is None or isinstance(value, bytes), "the model lets no other pass"
            return Step(Guard.IS, Effect.KEEP, wanted=value) if known else None
        case Put():
            return Step(Guard.ALWAYS, Effect.SET, value=action.value)
        case Delete():
            return _delete(bool(operation.result), known)
        case CompareAndSwap():
            return _compare_and_swap(action, bool(operation.result), known)
        case Increment():
            return _increment(action, operation.result)


def _delete(existed: bool, known: bool) -> Step:
    if not known:
        return Step(Guard.ALWAYS, Effect.SET, value=None)
    if existed:
        return Step(Guard.IS_NOT, Effect.SET, wanted=None, value=None)
    return Step(Guard.IS, Effect.KEEP, wanted=None)


def _compare_and_swap(action: CompareAndSwap, swapped: bool, known: bool) -> Step | None:
    if known and not swapped:
        return Step(Guard.IS_NOT, Effect.KEEP, wanted=action.expected)
    if action.expected != action.value:
        return Step(Guard.IS, Effect.SET, wanted=action.expected, value=action.value)
    return Step(Guard.IS, Effect.KEEP, wanted=action.expected) if known else None


def _increment(action: Increment, result: object) -> Step:
    if result is None:
        return Step(Guard.IS_COUNT, Effect.ADD, number=action.by)
    assert isinstance(result, int), "the model lets no other pass"
    return Step(Guard.COUNTS, Effect.SET, number=result - action.by, value=b"%d" % result)


@dataclass(slots=True)
class Known:
    """An operation that must be placed between its call and its return."""

    operation: Operation
    step: Step
    returned: float


@dataclass(slots=True)
class Unknown:
    """Unknown operations of one step, earliest called first; any number of them may be placed."""

    step: Step
    operations: list[Operation]


@dataclass(slots=True)
class Plan:
    """One key's history, ready to be searched; ``known`` is in the order of the calls.

    ``unseen`` stands for every value that no guard can tell from it, None where there is none.
    ``absorbs``: a write of it is of no use to any other operation, so that it can be placed just
    before whatever blind write comes next.
    """

    known: list[Known]
    unknown: list[Unknown]
    unseen: bytes | None
    absorbs: bool
    adds: bool


def plan(history: Iterable[Operation]) -> Plan:
    """Make the operations of one key ready for the search."""
    steps = [(operation, step) for operation in history if (step := step_of(operation))]
    steps.sort(key=lambda pair: pair[0].called)
    seen = _Seen(step for _, step in steps)
    same: dict[Step, Step] = {}
    known: list[Known] = []
    unknown: dict[Step, Unknown] = {}
    for operation, exact in steps:
        step = seen.simplified(exact)
        step = same.setdefault(step, step)
        if operation.returned is not None:
            known.append(Known(operation, step, operation.returned))
        elif seen.is_useful(step):
            unknown.setdefault(step, Unknown(step, [])).operations.append(operation)
    return Plan(known, list(unknown.values()), seen.unseen, seen.absorbs, seen.adds)


class _Seen:
    """Which values some guard of the key can tell from others."""

    def __init__(self, steps: Iterable[Step]) -> None:
        self._values: set[Value] = {None}
        self._counts: set[int] = set()
        self.adds = False
        self.absorbs = True
        self.unseen: bytes | None = None
        for step in steps:
            self._see(step)

    def _see(self, step: Step) -> None:
        if step.guard in (Guard.IS, Guard.IS_NOT):
            self._values.add(step.wanted)
            self.absorbs &= step.guard is Guard.IS
        elif step.guard is Guard.COUNTS:
            self._counts.add(step.number)
        elif step.guard is Guard.IS_COUNT:
            self.adds = True

    def _is_seen(self, value: Value) -> bool:
        if value in self._values:
            return True
        count = count_of(value) if self.adds or self._counts else None
        return count is not None and (self.adds or count in self._counts)

    def simplified(self, step: Step) -> Step:
        if step.effect is not Effect.SET or self._is_seen(step.value):
            return step
        if self.unseen is None:
            self.unseen = step.value
        return replace(step, value=self.unseen)

    def is_useful(self, step: Step) -> bool:
        unseen = step.effect is Effect.SET and step.value is not None and step.value == self.unseen
        return not (unseen and self.absorbs)

"""Random histories, for tests of the checker.

Those of ``from_register`` are linearizable: a real register runs each operation at one moment
within the interval that its client then reports. Those of ``wild`` are anything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

KEY: Final = b"key"
FEW_VALUES: Final = (b"1", b"2", b"a", b"b")
ALL_ACTIONS: Final[tuple[type[Action], ...]] = (Get, Put, Delete, CompareAndSwap, Increment)
NO_INCREMENT: Final[tuple[type[Action], ...]] = (Get, Get, Put, Delete, CompareAndSwap)


@dataclass(frozen=True, slots=True)
class _Call:
    """When a client called, when it was told, and when the register ran it; None is never."""

    client: str
    called: float
    returned: float | None
    run_at: float | None


def from_register(
    rng: random.Random,
    count: int,
    *,
    clients: int = 4,
    unknown_share: float = 0.1,
    values: Sequence[bytes] = (),
    actions: Sequence[type[Action]] = NO_INCREMENT,
) -> list[Operation]:
    """A linearizable history of one key; without ``values`` each write has one of its own."""
    calls = [_call(rng, f"client {number % clients}", unknown_share) for number in range(count)]
    register: bytes | None = None
    history = []
    for number, call in enumerate(sorted(_in_turn(calls), key=_moment)):
        value = rng.choice(values) if values else b"value %d" % number
        action = _action(rng, rng.choice(actions), register, value)
        applied = apply(action, register)
        if applied is None:
            continue
        result = applied[1] if call.returned is not None else None
        if call.run_at is not None:
            register = applied[0]
        history.append(Operation(call.client, KEY, action, call.called, call.returned, result))
    rng.shuffle(history)
    return history


def _call(rng: random.Random, client: str, unknown_share: float) -> _Call:
    """One call made at time 0; half of the unknown ones run, some of them very late."""
    takes = rng.expovariate(1.0)
    if rng.random() >= unknown_share:
        return _Call(client, 0.0, takes, rng.random() * takes)
    return _Call(client, 0.0, None, rng.expovariate(0.1) if rng.random() < 0.5 else None)


def _in_turn(calls: Sequence[_Call]) -> list[_Call]:
    """The calls moved in time so that each client makes one after the other."""
    now: dict[str, float] = {}
    moved = []
    for call in calls:
        start = now.get(call.client, 0.0)
        now[call.client] = start + (1.0 if call.returned is None else call.returned + 0.01)
        moved.append(
            replace(
                call,
                called=start,
                returned=None if call.returned is None else start + call.returned,
                run_at=None if call.run_at is None else start + call.run_at,
            )
        )
    return moved


def _moment(call: _Call) -> float:
    return call.called if call.run_at is None else call.run_at


def _action(rng: random.Random, kind: type[Action], register: bytes | None, value: bytes) -> Action:
    if kind is Put:
        return Put(value)
    if kind is CompareAndSwap:
        return CompareAndSwap(rng.choice([register, register, None, b"a"]), value)
    if kind is Increment:
        return Increment(rng.choice([1, 1, 1, 2, 0, -1]))
    return Get() if kind is Get else Delete()


def wild(rng: random.Random, count: int, *, unknown_share: float = 0.3) -> list[Operation]:
    """Operations with any times and results, rarely linearizable beyond a few."""
    actions = rng.sample(ALL_ACTIONS, rng.randint(1, len(ALL_ACTIONS)))
    history = []
    for number in range(count):
        action = _action(rng, rng.choice(actions), rng.choice(FEW_VALUES), rng.choice(FEW_VALUES))
        called = float(rng.randrange(8))
        known = rng.random() >= unknown_share
        history.append(
            Operation(
                f"client {number}",
                KEY,
                action,
                called,
                called + rng.randrange(5) if known else None,
                any_result(rng, action) if known else None,
            )
        )
    return history


def any_result(rng: random.Random, action: Action) -> Result:
    """Some result that an action of this kind can have."""
    match action:
        case Get():
            return rng.choice([*FEW_VALUES, None])
        case Put():
            return None
        case Delete() | CompareAndSwap():
            return rng.random() < 0.5
        case Increment():
            return rng.randint(-1, 4)


def with_one_wrong(rng: random.Random, history: Sequence[Operation]) -> list[Operation]:
    """The history with the result of one returned operation drawn anew."""
    known = [index for index, operation in enumerate(history) if operation.returned is not None]
    changed = list(history)
    if known:
        index = rng.choice(known)
        changed[index] = replace(history[index], result=any_result(rng, history[index].action))
    return changed

"""The search for one linearization of one key's history.

Wing and Gong, "Testing and Verifying Concurrent Objects" (1993): the next operation of an order is
any that was called before the first return among those not yet placed; try each, go back where
none leads on. Lowe, "Testing for Linearizability" (2017): calls and returns stand in a linked list
from which placed operations are lifted, and a configuration (the set of placed operations and the
register) that led nowhere is never entered again.

The rest are rules that skip an order only where another one, not skipped, exists if it does:

* A step that changes nothing and may happen now is placed now: it helps and hinders nobody.
* Of equal steps only that which returns first is tried: the two can be swapped.
* An unknown step is never followed by a blind write, nor last: without it the order holds as well.
  So it is tried only where another step can follow that needs the value it writes.
* Of two dead configurations that differ in the unknown steps spent, the thriftier speaks for both.
* A value that a known operation has yet to find, and nobody is left to write, is not overwritten.
* Writes of the unseen value (see ``steps``), where they help nobody, go just before the next write.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from histories.model import count_of
from histories.steps import IMPOSSIBLE, Effect, Guard, Plan, Step, Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from histories.model import Operation

_HEAD: Final = 0
_RETURN: Final = -1
_PLAIN_GUARDS: Final = frozenset((Guard.ALWAYS, Guard.IS))


@dataclass(slots=True)
class _Frame:
    """One step of the order, how to take it back, and what may follow it.

    ``move``: a known operation's index, or the inverse (~) of the index of a kind of unknown ones.
    """

    move: int | None
    state_before: Value
    held_before: bool
    lifted: list[int]
    untried: list[int] = field(default_factory=list)
    may_guess: bool = True  # unknown steps have not been tried yet


class OutOfSteps(Exception):
    """The search was given up undecided."""


class Search:
    """One depth-first search; ``run`` it once.

    Invariant: the linked list holds exactly the calls and returns of known operations that are not
    in ``_placed``, in the order of time; ``_state`` is the register after the order so far.
    """

    def __init__(self, plan: Plan, steps_max: int) -> None:
        self._plan = plan
        self._steps_max = steps_max
        self.steps = 0
        self._state: Value = None
        self._held = False  # the last step was an unknown one: something must make use of it
        self._placed = 0
        self._left = len(plan.known)
        self._steps = [known.step for known in plan.known]
        self._link(plan)
        self._used = [0] * len(plan.unknown)
        self._first_bit = self._number_unknown(plan)
        self._index_unknown(plan)
        self._spent = 0
        self._dead: dict[tuple[int, int, Value, bool], list[int]] = {}
        self._frames: list[_Frame] = []
        self._count_values(plan)
        self._absorbs = plan.absorbs and plan.unseen is not None

    def _link(self, plan: Plan) -> None:
        """Put calls and returns in the order of time; at one moment calls come first."""
        events = [(known.operation.called, 0, index) for index, known in enumerate(plan.known)]
        events += [(known.returned, 1, index) for index, known in enumerate(plan.known)]
        events.sort()
        self._next = list(range(1, len(events) + 2))
        self._previous = list(range(-1, len(events) + 1))
        self._call_of = [_RETURN] * (len(events) + 2)
        self._time = [0.0, *(time for time, _, _ in events), float("inf")]
        self._called_at = [0] * len(plan.known)
        self._returned_at = [0] * len(plan.known)
        for position, (_, is_return, index) in enumerate(events, start=1):
            if is_return:
                self._returned_at[index] = position
            else:
                self._called_at[index] = position
                self._call_of[position] = index

    @staticmethod
    def _number_unknown(plan: Plan) -> list[int]:
        first, bits = 0, []
        for unknown in plan.unknown:
            bits.append(first)
            first += len(unknown.operations)
        return bits

    def _index_unknown(self, plan: Plan) -> None:
        self._kinds_writing: dict[Value, list[int]] = defaultdict(list)
        self._wanted_by_unknown: set[Value] = set()
        for kind, unknown in enumerate(plan.unknown):
            self._kinds_writing[unknown.step.value].append(kind)
            if unknown.step.guard is Guard.IS:
                self._wanted_by_unknown.add(unknown.step.wanted)

    def _count_values(self, plan: Plan) -> None:
        """Count, for each value, who must still find it and who may still write it."""
        self._finders: Counter[Value] = Counter()
        self._writers: Counter[Value] = Counter()
        for step in self._steps:
            if step.guard is Guard.IS and not (plan.adds and count_of(step.wanted) is not None):
                self._finders[step.wanted] += 1
            if step.effect is Effect.SET:
                self._writers[step.value] += 1
        for unknown in plan.unknown:
            if unknown.step.effect is Effect.SET:
                self._writers[unknown.step.value] += len(unknown.operations)

    def run(self) -> bool:
        """Whether the history is linearizable.

        Raises:
            OutOfSteps: ``steps_max`` was not enough to tell.
        """
        frames = self._frames
        frames.append(self._entered(_Frame(None, None, False, [])))
        while self._left:
            frame = frames[-1]
            move = self._next_move(frame)
            if move is None:
                if frame.move is None:
                    return False
                self._bury()
                frames.pop()
                self._take_back(frame)
            else:
                self._count_step(1)
                self._try(move)
        return True

    def _try(self, move: int) -> None:
        frame = _Frame(move, self._state, self._held, [])
        if self._take(frame, move) and not self._is_dead():
            self._frames.append(self._entered(frame))
        else:
            self._take_back(frame)

    def _count_step(self, cost: int) -> None:
        self.steps += cost
        if self.steps > self._steps_max:
            raise OutOfSteps

    def _entered(self, frame: _Frame) -> _Frame:
        """Find what may come next: known operations, the first to return tried first."""
        found: dict[int, int] = {}  # of equal steps, the one that returns first
        for index in self._callable():
            step = self._steps[index]
            if step.after(self._state) is IMPOSSIBLE:
                continue
            if step.effect is Effect.KEEP:
                frame.untried = [index]
                frame.may_guess = False
                return frame
            if self._held and step.guard is Guard.ALWAYS:
                continue
            rival = found.setdefault(id(step), index)
            if self._returned_at[index] < self._returned_at[rival]:
                found[id(step)] = index
        frame.untried = sorted(found.values(), key=self._returned_at.__getitem__, reverse=True)
        return frame

    def _callable(self) -> list[int]:
        """The operations called before the first return of those not yet placed."""
        indexes = []
        position = self._next[_HEAD]
        while (index := self._call_of[position]) != _RETURN:
            indexes.append(index)
            position = self._next[position]
        return indexes

    def _next_move(self, frame: _Frame) -> int | None:
        if not frame.untried and frame.may_guess:
            frame.may_guess = False
            frame.untried = self._guesses()
        return frame.untried.pop() if frame.untried else None

    def _guesses(self) -> list[int]:
        """The kinds of unknown steps that may come next and that some other step can follow."""
        callable_now = self._callable()
        known = {id(self._steps[index]) for index in callable_now}
        before = self._time[min(self._returned_at[index] for index in callable_now)]
        guesses = []
        for kind in self._useful_kinds(callable_now):
            unknown, used = self._plan.unknown[kind], self._used[kind]
            if used == len(unknown.operations) or unknown.operations[used].called > before:
                continue
            if id(unknown.step) in known or (self._held and unknown.step.guard is Guard.ALWAYS):
                continue
            if unknown.step.after(self._state) not in (IMPOSSIBLE, self._state):
                guesses.append(~kind)
        return guesses

    def _useful_kinds(self, callable_now: list[int]) -> Iterable[int]:
        """The kinds of unknown steps whose value is wanted, or all where that is hard to tell."""
        steps = [self._steps[index] for index in callable_now]
        if self._plan.adds or any(step.guard not in _PLAIN_GUARDS for step in steps):
            return range(len(self._plan.unknown))
        wanted = {step.wanted for step in steps if step.guard is Guard.IS}
        return sorted(
            kind
            for value in wanted | self._wanted_by_unknown
            for kind in self._kinds_writing.get(value, ())
        )

    def _take(self, frame: _Frame, move: int) -> bool:
        """Place a step; False where it leaves a later operation without explanation."""
        before = self._state
        step = self._steps[move] if move >= 0 else self._plan.unknown[~move].step
        after = step.after(before)
        assert after is not IMPOSSIBLE, "only possible steps are tried"
        self._state = after
        self._held = move < 0
        if self._absorbs and step.guard is Guard.ALWAYS:
            self._absorb(frame)
        if move >= 0:
            self._lift(move)
            frame.lifted.append(move)
        else:
            self._spend(~move)
        return before == after or self._writers[before] > 0 or self._finders[before] == 0

    def _absorb(self, frame: _Frame) -> None:
        for index in self._callable():
            if index != frame.move and self._is_of_no_use(self._steps[index]):
                self._lift(index)
                frame.lifted.append(index)

    def _is_of_no_use(self, step: Step) -> bool:
        return step.guard is Guard.ALWAYS and step.value == self._plan.unseen

    def _take_back(self, frame: _Frame) -> None:
        assert frame.move is not None, "the first frame is never taken back"
        self._state = frame.state_before
        self._held = frame.held_before
        for index in reversed(frame.lifted):
            self._unlift(index)
        if frame.move < 0:
            self._regain(~frame.move)

    def _lift(self, index: int) -> None:
        following, previous = self._next, self._previous
        for position in (self._called_at[index], self._returned_at[index]):
            after, before = following[position], previous[position]
            following[before] = after
            previous[after] = before
        self._placed |= 1 << index
        self._left -= 1
        self._tally(self._steps[index], -1)

    def _unlift(self, index: int) -> None:
        following, previous = self._next, self._previous
        for position in (self._returned_at[index], self._called_at[index]):
            following[previous[position]] = position
            previous[following[position]] = position
        self._placed ^= 1 << index
        self._left += 1
        self._tally(self._steps[index], 1)

    def _tally(self, step: Step, change: int) -> None:
        if step.guard is Guard.IS and step.wanted in self._finders:
            self._finders[step.wanted] += change
        if step.effect is Effect.SET:
            self._writers[step.value] += change

    def _spend(self, kind: int) -> None:
        self._spent |= 1 << (self._first_bit[kind] + self._used[kind])
        self._used[kind] += 1
        self._tally_unknown(kind, -1)

    def _regain(self, kind: int) -> None:
        self._used[kind] -= 1
        self._spent ^= 1 << (self._first_bit[kind] + self._used[kind])
        self._tally_unknown(kind, 1)

    def _tally_unknown(self, kind: int, change: int) -> None:
        step = self._plan.unknown[kind].step
        if step.effect is Effect.SET:
            self._writers[step.value] += change

    def _configuration(self) -> tuple[int, int, Value, bool]:
        """All that decides what can follow, but for the unknown steps spent."""
        first = self._call_of[self._next[_HEAD]]
        return first, self._placed >> max(first, 0), self._state, self._held

    def _is_dead(self) -> bool:
        if not self._dead:
            return False
        masks = self._dead.get(self._configuration())
        if masks is None:
            return False
        self._count_step(len(masks) >> 4)
        spent = self._spent
        return any(mask & ~spent == 0 for mask in masks)

    def _bury(self) -> None:
        masks = self._dead.setdefault(self._configuration(), [])
        masks.append(self._spent)

    def order(self) -> Iterator[Operation]:
        """The order found; after ``OutOfSteps`` the one that was tried last."""
        used = [0] * len(self._used)
        for frame in self._frames:
            for index in frame.lifted:
                yield self._plan.known[index].operation
            if frame.move is not None and frame.move < 0:
                yield self._plan.unknown[~frame.move].operations[used[~frame.move]]
                used[~frame.move] += 1

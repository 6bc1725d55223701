"""Histories whose verdict anyone can see."""

from __future__ import annotations

import pytest

from histories.brute_force import is_linearizable
from histories.checker import Outcome, check
from histories.model import (
    Action,
    CompareAndSwap,
    Delete,
    Get,
    Increment,
    Operation,
    Put,
    Result,
)


def op(
    action: Action,
    called: float,
    returned: float | None,
    result: Result = None,
    *,
    key: bytes = b"k",
    client: str = "alice",
) -> Operation:
    return Operation(client, key, action, called, returned, result)


GOOD = {
    "nothing happened": [],
    "a read of nothing": [op(Get(), 0, 1, None)],
    "a read after its write": [op(Put(b"x"), 0, 1), op(Get(), 2, 3, b"x")],
    "a concurrent read of the old value": [
        op(Put(b"x"), 0, 1),
        op(Put(b"y"), 2, 5),
        op(Get(), 3, 4, b"x"),
    ],
    "a concurrent read of the new value": [
        op(Put(b"x"), 0, 1),
        op(Put(b"y"), 2, 5),
        op(Get(), 3, 4, b"y"),
    ],
    "a read that is called as a write returns may still be before it": [
        op(Put(b"x"), 0, 1),
        op(Get(), 1, 2, None),
    ],
    "concurrent writes in the order of neither call nor return": [
        op(Put(b"x"), 0, 10),
        op(Put(b"y"), 1, 9),
        op(Put(b"z"), 2, 8),
        op(Get(), 11, 12, b"x"),
    ],
    "an unknown put that took effect very late": [
        op(Put(b"x"), 0, None),
        op(Put(b"y"), 1, 2),
        *(op(Get(), at, at + 0.5, b"y") for at in range(3, 60)),
        op(Get(), 100, 101, b"x"),
    ],
    "an unknown put that never took effect": [
        op(Put(b"x"), 0, None),
        op(Put(b"y"), 1, 2),
        op(Get(), 3, 4, b"y"),
    ],
    "an unknown delete between two reads": [
        op(Put(b"x"), 0, 1),
        op(Delete(), 2, None),
        op(Get(), 3, 4, b"x"),
        op(Get(), 5, 6, None),
    ],
    "an unknown swap that is the only way on": [
        op(Put(b"a"), 0, 1),
        op(CompareAndSwap(b"a", b"b"), 2, None),
        op(CompareAndSwap(b"b", b"c"), 3, None),
        op(Get(), 4, 5, b"c"),
    ],
    "a swap that fails because of a value nobody ever read": [
        op(Put(b"a"), 0, 1),
        op(Put(b"hidden"), 2, None),
        op(CompareAndSwap(b"a", b"b"), 3, 4, False),
    ],
    "a delete that finds only a value of unknown outcome": [
        op(Put(b"hidden"), 0, None),
        op(Delete(), 1, 2, True),
    ],
    "of two concurrent creations one succeeds": [
        op(CompareAndSwap(None, b"a"), 0, 3, True),
        op(CompareAndSwap(None, b"b"), 1, 2, False),
        op(Get(), 4, 5, b"a"),
    ],
    "increments in another order than their calls": [
        op(Increment(), 0, 5, 3),
        op(Increment(), 1, 6, 1),
        op(Increment(), 2, 7, 2),
    ],
    "an unknown increment that counted": [
        op(Increment(), 0, None),
        op(Increment(5), 1, 2, 6),
        op(Get(), 3, 4, b"6"),
    ],
    "an unknown increment that did not count": [
        op(Increment(), 0, None),
        op(Increment(), 1, 2, 1),
    ],
    "a count that is read where only an unknown increment can have made it again": [
        op(Put(b"1"), 0, 1),
        op(Put(b"0"), 2, 3),
        op(Increment(), 4, None),
        op(Get(), 5, 6, b"1"),
    ],
    "an increment by nothing makes an absent counter 0": [
        op(Increment(0), 0, 1, 0),
        op(Get(), 2, 3, b"0"),
        op(Increment(), 4, 5, 1),
    ],
    "a counter that was put": [op(Put(b"07"), 0, 1), op(Increment(), 2, 3, 8)],
    "the same value twice, written twice": [
        op(Put(b"x"), 0, 1),
        op(Delete(), 2, 3, True),
        op(Put(b"x"), 4, 5),
        op(Get(), 6, 7, b"x"),
    ],
    "two keys that know nothing of each other": [
        op(Put(b"x"), 0, 1, key=b"a"),
        op(Get(), 2, 3, None, key=b"b"),
    ],
}

BAD = {
    "a stale read": [op(Put(b"x"), 0, 1), op(Put(b"y"), 2, 3), op(Get(), 4, 5, b"x")],
    "a read of nothing after a write": [op(Put(b"x"), 0, 1), op(Get(), 2, 3, None)],
    "a read of a value never written": [op(Put(b"x"), 0, 1), op(Get(), 2, 3, b"ghost")],
    "a read of a value before it was written": [op(Get(), 0, 1, b"x"), op(Put(b"x"), 2, 3)],
    "a lost update": [
        op(Put(b"0"), 0, 1),
        op(CompareAndSwap(b"0", b"a"), 2, 5, True),
        op(CompareAndSwap(b"0", b"b"), 3, 6, True),
    ],
    "both of two creations succeed": [
        op(CompareAndSwap(None, b"a"), 0, 3, True),
        op(CompareAndSwap(None, b"b"), 1, 2, True),
    ],
    "a swap that fails though it must not": [
        op(Put(b"a"), 0, 1),
        op(CompareAndSwap(b"a", b"b"), 2, 3, False),
    ],
    "an increment counted twice": [
        op(Increment(), 0, 1, 1),
        op(Increment(), 2, 3, 3),
    ],
    "an unknown increment counted twice": [
        op(Increment(), 0, None),
        op(Increment(), 1, 2, 3),
    ],
    "two increments with one result": [
        op(Increment(), 0, 2, 1),
        op(Increment(), 1, 3, 1),
    ],
    "an increment of what is no count": [op(Put(b"x"), 0, 1), op(Increment(), 2, 3, 1)],
    "a deleted key seen again": [
        op(Put(b"x"), 0, 1),
        op(Delete(), 2, 3, True),
        op(Get(), 4, 5, b"x"),
    ],
    "a delete that finds nothing where something was": [
        op(Put(b"x"), 0, 1),
        op(Delete(), 2, 3, False),
    ],
    "one put deleted twice": [
        op(Put(b"x"), 0, 1),
        op(Delete(), 2, 4, True),
        op(Delete(), 3, 5, True),
    ],
    "an unknown put seen, then gone, then seen again": [
        op(Put(b"x"), 0, 1),
        op(Put(b"y"), 2, None),
        op(Get(), 3, 4, b"y"),
        op(Get(), 5, 6, b"x"),
        op(Get(), 7, 8, b"y"),
    ],
    "an unknown put seen before it was called": [
        op(Get(), 0, 1, b"x"),
        op(Put(b"x"), 2, None),
    ],
    "reads one after the other that go back in time": [
        op(Put(b"x"), 0, 1),
        op(Put(b"y"), 2, 10),
        op(Get(), 3, 4, b"y"),
        op(Get(), 5, 6, b"x"),
    ],
    "two clients see two writes in different orders": [
        op(Put(b"x"), 0, 10),
        op(Put(b"y"), 0, 10),
        op(Get(), 1, 2, b"x", client="bob"),
        op(Get(), 3, 4, b"y", client="bob"),
        op(Get(), 5, 6, b"x", client="carol"),
    ],
    "one bad key among good ones": [
        op(Put(b"x"), 0, 1, key=b"a"),
        op(Put(b"x"), 0, 1, key=b"b"),
        op(Get(), 2, 3, None, key=b"b"),
        op(Get(), 2, 3, b"x", key=b"a"),
    ],
}


@pytest.mark.parametrize("history", GOOD.values(), ids=GOOD.keys())
def test_good(history: list[Operation]) -> None:
    verdict = check(history)
    assert verdict.ok, verdict.explanation
    assert verdict.key is None
    if len(history) <= 7:
        assert is_linearizable(history)


@pytest.mark.parametrize("history", BAD.values(), ids=BAD.keys())
def test_bad(history: list[Operation]) -> None:
    verdict = check(history)
    assert verdict.outcome is Outcome.VIOLATION
    assert not verdict.ok
    assert not is_linearizable(history)


@pytest.mark.parametrize("history", BAD.values(), ids=BAD.keys())
def test_the_order_in_which_operations_are_given_does_not_matter(
    history: list[Operation],
) -> None:
    assert check(history[::-1]).outcome is Outcome.VIOLATION


def test_the_explanation_names_the_key_the_order_and_what_fits_nowhere() -> None:
    history = [
        op(Put(b"x"), 0, 1, client="alice"),
        op(Put(b"y"), 2, 3, client="bob"),
        op(Put(b"later"), 2, None, client="dave"),
        op(Get(), 4, 5, b"x", client="carol"),
        op(Put(b"long after"), 100, 101, client="alice"),
    ]
    verdict = check(history)
    assert verdict.key == b"k"
    first, rest = verdict.explanation.split("that returned before it")
    assert "key 'k'" in first
    assert "carol: get -> 'x'  [4.000000 .. 5.000000]" in first
    assert rest.index("alice: put 'x'") < rest.index("bob: put 'y'")
    assert "the key is then 'y'" in rest
    assert "dave: put 'later' -> ?" in rest
    assert "long after" not in verdict.explanation


def test_the_explanation_says_that_nobody_wrote_a_value() -> None:
    verdict = check([op(Get(), 0, 1, b"ghost")])
    assert "nobody ever wrote" in verdict.explanation


def test_the_explanation_is_bounded() -> None:
    value = b"v" * 10_000
    history = [op(Put(value), at, at + 0.5) for at in range(500)]
    history += [op(Put(b"maybe %d" % at), at, None) for at in range(500)]
    history.append(op(Get(), 1000, 1001, b"ghost"))
    explanation = check(history).explanation
    assert len(explanation.splitlines()) < 80
    assert max(map(len, explanation.splitlines())) < 200


def test_no_name_of_a_client_can_spoil_the_explanation() -> None:
    history = [op(Put(b"x"), 0, 1, client="c" * 5000)]
    history.append(op(Get(), 2, 3, b"ghost", client="eve\n\x1b[2J\ud800"))
    explanation = check(history).explanation
    assert "eve\\n\\x1b[2J\\ud800: get" in explanation
    assert explanation.isascii()
    assert "\x1b" not in explanation
    assert max(map(len, explanation.splitlines())) < 200


def hard_to_decide() -> list[Operation]:
    """Sixteen writes at once, each seen by a swap that fails, and a last read of none of them."""
    values = [b"%d" % number for number in range(16)]
    history = [op(Put(value), 0, 100) for value in values]
    history += [op(CompareAndSwap(value, b"other"), 0, 100, False) for value in values]
    return [*history, op(Get(), 101, 102, b"ghost")]


def test_undecided_within_the_allowed_steps_is_not_ok() -> None:
    verdict = check(hard_to_decide(), steps_max=1000)
    assert verdict.outcome is Outcome.UNDECIDED
    assert not verdict.ok
    assert verdict.key == b"k"
    assert "1000 steps" in verdict.explanation


def test_a_violation_is_told_even_if_another_key_is_undecided() -> None:
    history = [*hard_to_decide(), *(op(Put(b"x"), 0, 1, key=b"bad") for _ in range(50))]
    history.append(op(Get(), 0, 1, b"ghost", key=b"bad"))
    verdict = check(history, steps_max=1000)
    assert verdict.outcome is Outcome.VIOLATION
    assert verdict.key == b"bad"


def test_steps_are_counted_over_all_keys() -> None:
    history = [op(Put(b"x"), 0, 1, key=b"%d" % key) for key in range(10)]
    assert check(history, steps_max=10).ok
    assert check(history, steps_max=9).outcome is Outcome.UNDECIDED


def test_unknown_writes_that_nobody_saw_cost_nothing() -> None:
    history = [op(Put(b"lost %d" % number), number, None) for number in range(1000)]
    history += [op(Put(b"x"), 0, 1), op(Get(), 2, 2000, b"x")]
    assert check(history, steps_max=2).ok


@pytest.mark.parametrize(
    ("action", "returned", "result"),
    [
        (Get(), 1, True),
        (Get(), 1, 7),
        (Put(b"x"), 1, b"x"),
        (Delete(), 1, None),
        (CompareAndSwap(None, b"x"), 1, 1),
        (Increment(), 1, True),
        (Increment(), 1, b"1"),
        (Increment(), None, 1),
        (Increment(), 1, 10**40),
        (Increment(10**40), None, None),
        (Get(), -1, None),
        (Get(), float("inf"), None),
        (Get(), float("nan"), None),
    ],
)
def test_what_cannot_have_happened_is_no_operation(
    action: Action, returned: float | None, result: Result
) -> None:
    with pytest.raises(
        ValueError, match=r"cannot result|before it was|unknown outcome|not finite|digits"
    ):
        op(action, 0, returned, result)


@pytest.mark.parametrize("returned", [1, None])
def test_a_count_too_long_to_be_shown_is_refused_in_words(returned: float | None) -> None:
    with pytest.raises(ValueError, match="at most 40 digits"):
        op(Increment(10**5000), 0, returned)
    with pytest.raises(ValueError, match="more than 40 digits"):
        op(Increment(), 0, 1, -(10**5000))
